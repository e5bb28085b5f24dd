//! What goes over the sockets: frames, and how they are put together again from whatever pieces arrive.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use crate::sharing::{self, Known, Mapping, Memory, Received, Segment, Segments};

/// A frame's head, in bytes.
pub const HEAD: usize = 32;

/// How much is read at once.
const PIECE: usize = 1 << 16;

/// What a frame is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// To a worker: what it is to load before anything else.
    Prepare,
    /// To a worker: its initializer.
    Initialize,
    /// To a worker: a task.
    Task,
    /// To a worker: it may go.
    Leave,
    /// From a worker: it has loaded what it was to load.
    Prepared,
    /// From a worker: it can work.
    Ready,
    /// From a worker: it can't work; a text says why.
    Failed,
    /// From a worker: what a task returned.
    Returned,
    /// From a worker: what a task raised.
    Raised,
    /// From a worker: something to be told to the parent.
    Event,
}

const KINDS: [Kind; 10] = [
    Kind::Prepare,
    Kind::Initialize,
    Kind::Task,
    Kind::Leave,
    Kind::Prepared,
    Kind::Ready,
    Kind::Failed,
    Kind::Returned,
    Kind::Raised,
    Kind::Event,
];

/// Where a frame's buffers are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// In its body.
    Inside,
    /// In a file of their own, whose descriptor comes along.
    File,
    /// In a segment that the receiver knows.
    Segment(u8),
    /// In a segment whose descriptor comes along.
    NewSegment(u8),
}

impl Place {
    fn byte(self) -> u8 {
        match self {
            Self::Inside => 0,
            Self::File => 1,
            Self::Segment(number) => 2 | number << 2,
            Self::NewSegment(number) => 3 | number << 2,
        }
    }

    fn from_byte(byte: u8) -> Self {
        match byte % 4 {
            0 => Self::Inside,
            1 => Self::File,
            2 => Self::Segment(byte >> 2),
            _ => Self::NewSegment(byte >> 2),
        }
    }
}

/// How buffers travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Beside {
    /// In the body.
    Never,
    /// In files of their own.
    Files,
    /// In segments, as far as there is room.
    Segments,
}

impl Beside {
    /// As it is told to workers.
    #[must_use]
    pub fn from_number(number: u8) -> Self {
        match number {
            0 => Self::Never,
            1 => Self::Files,
            _ => Self::Segments,
        }
    }

    /// Puts buffers where they go; the descriptor that is to come along.
    ///
    /// Where there is no such memory, or no descriptor left, they go the way of all bytes.
    pub fn put(self, head: &mut Head, buffers: &[&[u8]], segments: &mut Segments) -> Option<OwnedFd> {
        head.place = Place::Inside;
        if buffers.is_empty() || self == Self::Never {
            return None;
        }
        if self == Self::Segments
            && let Ok(Some((number, file))) = segments.put(buffers)
        {
            head.place = if file.is_some() { Place::NewSegment(number) } else { Place::Segment(number) };
            return file;
        }
        let file = sharing::sealed(buffers).ok()?;
        head.place = Place::File;
        Some(file)
    }
}

/// A frame's head. The body follows: the buffers' lengths, the text, and the buffers themselves, unless they lie in memory
/// that is shared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// What it is about.
    pub kind: Kind,
    /// Where the buffers are.
    pub place: Place,
    /// How many buffers there are.
    pub buffers: u16,
    /// For tasks: under which of the worker's epochs it may begin.
    pub epoch: u32,
    /// The body's length.
    pub length: u64,
    /// The task's number.
    pub number: u64,
    /// Nanoseconds that something took.
    pub took: u64,
}

impl Head {
    /// The head of a frame without buffers.
    #[must_use]
    pub fn plain(kind: Kind, number: u64) -> Self {
        Self { kind, place: Place::Inside, buffers: 0, epoch: 0, length: 0, number, took: 0 }
    }

    fn bytes(&self) -> [u8; HEAD] {
        let mut bytes = [0; HEAD];
        bytes[0] = self.kind as u8;
        bytes[1] = self.place.byte();
        bytes[2..4].copy_from_slice(&self.buffers.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.epoch.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.length.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.number.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.took.to_le_bytes());
        bytes
    }

    fn from_bytes(bytes: &[u8; HEAD]) -> io::Result<Self> {
        let part = |start: usize| {
            let mut part = [0; 8];
            part.copy_from_slice(&bytes[start..start + 8]);
            u64::from_le_bytes(part)
        };
        let kind = KINDS.get(usize::from(bytes[0])).ok_or_else(|| io::Error::other("not a frame of ferrule's"))?;
        Ok(Self {
            kind: *kind,
            place: Place::from_byte(bytes[1]),
            buffers: u16::from_le_bytes([bytes[2], bytes[3]]),
            epoch: u32::from_le_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]),
            length: part(8),
            number: part(16),
            took: part(24),
        })
    }
}

/// Writes a frame behind what is there: head, text, and what buffers lie in the body.
pub fn write(into: &mut Vec<u8>, mut head: Head, text: &[u8], buffers: &[&[u8]]) {
    let inside = if head.place == Place::Inside { buffers.iter().map(|buffer| buffer.len()).sum() } else { 0 };
    head.buffers = u16::try_from(buffers.len()).unwrap_or(u16::MAX);
    head.length = (buffers.len() * 8 + text.len() + inside) as u64;
    into.reserve(HEAD + buffers.len() * 8 + text.len() + inside);
    into.extend_from_slice(&head.bytes());
    for buffer in buffers {
        into.extend_from_slice(&(buffer.len() as u64).to_le_bytes());
    }
    into.extend_from_slice(text);
    if head.place == Place::Inside {
        for buffer in buffers {
            into.extend_from_slice(buffer);
        }
    }
}

/// Shared memory that holds a frame's buffers.
pub enum Shared {
    /// A file.
    File(OwnedFd),
    /// A segment, to be given back.
    Segment(Arc<Segment>),
}

impl Shared {
    /// Has so many bytes be this process's own.
    pub fn take(&self, length: usize) -> io::Result<Memory> {
        match self {
            Self::File(file) => Ok(Memory::Mapped(Mapping::private(file.as_fd(), length)?, 0)),
            Self::Segment(segment) => segment.take(length),
        }
    }
}

/// A frame that has arrived.
pub struct Frame {
    /// Its head.
    pub head: Head,
    /// Its body.
    pub body: Vec<u8>,
    /// The memory with its buffers.
    pub memory: Option<Shared>,
}

impl Frame {
    /// Gives back, unread, what its buffers lie in.
    pub fn refuse(self) {
        if let Some(Shared::Segment(segment)) = self.memory {
            segment.give_back();
        }
    }

    /// The lengths of its buffers, and where the text begins and ends.
    pub fn layout(&self) -> io::Result<(Vec<usize>, usize, usize)> {
        let wrong = || io::Error::other("a frame that contradicts itself");
        let start = usize::from(self.head.buffers) * 8;
        let mut lengths = Vec::with_capacity(usize::from(self.head.buffers));
        for bytes in self.body.get(..start).ok_or_else(wrong)?.chunks_exact(8) {
            let mut number = [0; 8];
            number.copy_from_slice(bytes);
            lengths.push(usize::try_from(u64::from_le_bytes(number)).map_err(io::Error::other)?);
        }
        let mut end = self.body.len();
        if self.head.place == Place::Inside {
            for length in &lengths {
                end = end.checked_sub(*length).ok_or_else(wrong)?;
            }
        }
        if end < start { Err(wrong()) } else { Ok((lengths, start, end)) }
    }
}

/// Puts frames together from what arrives.
#[derive(Default)]
pub struct Reader {
    bytes: Vec<u8>,
    start: usize,
    descriptors: VecDeque<OwnedFd>,
    fresh: Vec<OwnedFd>,
    segments: Known,
}

impl Reader {
    /// Takes what the socket has, as much as fits at once.
    pub fn fill(&mut self, socket: BorrowedFd<'_>) -> io::Result<Received> {
        let old = self.bytes.len();
        // What the frame at hand still lacks comes in one piece.
        let lacks = match self.head()? {
            Some(head) => (HEAD + usize::try_from(head.length).map_err(io::Error::other)?)
                .saturating_sub(old - self.start)
                .min(1 << 24),
            None => 0,
        };
        self.bytes.resize(old + lacks.max(PIECE), 0);
        let received = sharing::receive(socket, &mut self.bytes[old..], &mut self.fresh);
        let count = if let Ok(Received::Bytes(count)) = received { count } else { 0 };
        self.bytes.truncate(old + count);
        self.descriptors.extend(self.fresh.drain(..));
        received
    }

    /// One for bytes of the same sender's that come another way.
    #[must_use]
    pub fn beside(&self) -> Self {
        Self { segments: self.segments.clone(), ..Self::default() }
    }

    /// Takes bytes that came another way.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    fn head(&self) -> io::Result<Option<Head>> {
        self.bytes[self.start..].first_chunk::<HEAD>().map(Head::from_bytes).transpose()
    }

    /// The next frame, if it is whole.
    pub fn take(&mut self) -> io::Result<Option<Frame>> {
        let Some(head) = self.head()? else {
            self.shrink();
            return Ok(None);
        };
        let length = usize::try_from(head.length).map_err(io::Error::other)?;
        let from = self.start + HEAD;
        let Some(body) = self.bytes.get(from..from.saturating_add(length)) else {
            self.shrink();
            return Ok(None);
        };
        let body = body.to_vec();
        let mut descriptor = || self.descriptors.pop_front().ok_or_else(|| io::Error::other("a descriptor is missing"));
        let memory = match head.place {
            Place::Inside => None,
            Place::File => Some(Shared::File(descriptor()?)),
            Place::Segment(number) => Some(Shared::Segment(self.segments.get(number)?)),
            Place::NewSegment(number) => {
                self.segments.learn(number, descriptor()?.as_fd())?;
                Some(Shared::Segment(self.segments.get(number)?))
            }
        };
        self.start = from + length;
        Ok(Some(Frame { head, body, memory }))
    }

    /// Whether something has arrived that is no whole frame yet, or hasn't been taken.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.start == self.bytes.len()
    }

    fn shrink(&mut self) {
        if self.start > 0 {
            self.bytes.drain(..self.start);
            self.start = 0;
        }
        if self.bytes.is_empty() && self.bytes.capacity() > 16 * PIECE {
            self.bytes = Vec::new();
        }
    }
}

/// What is to be sent, and hasn't gone yet.
#[derive(Default)]
pub struct Writer {
    pieces: VecDeque<Piece>,
}

#[derive(Default)]
struct Piece {
    bytes: Vec<u8>,
    sent: usize,
    memory: Option<OwnedFd>,
}

impl Writer {
    /// Puts a frame behind the others.
    pub fn push(&mut self, head: Head, text: &[u8], buffers: &[&[u8]], memory: Option<OwnedFd>) {
        let new =
            memory.is_some() || self.pieces.back().is_none_or(|piece| piece.sent > 0 || piece.bytes.len() > PIECE);
        if new {
            self.pieces.push_back(Piece { memory, ..Piece::default() });
        }
        if let Some(piece) = self.pieces.back_mut() {
            write(&mut piece.bytes, head, text, buffers);
        }
    }

    /// Sends what the socket takes now.
    pub fn flush(&mut self, socket: BorrowedFd<'_>) -> io::Result<()> {
        while let Some(piece) = self.pieces.front_mut() {
            let memory = piece.memory.as_ref().map(AsFd::as_fd);
            let sent = sharing::send(socket, &piece.bytes[piece.sent..], memory.as_slice())?;
            if sent == 0 {
                return Ok(());
            }
            piece.memory = None;
            piece.sent += sent;
            if piece.sent == piece.bytes.len() {
                self.pieces.pop_front();
            }
        }
        Ok(())
    }

    /// Whether all has gone.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    use super::{Beside, Frame, HEAD, Head, Kind, Reader, Writer, write};
    use crate::sharing::{Received, Segments};

    fn text(frame: &Frame) -> &[u8] {
        let (_, start, end) = frame.layout().expect("a layout");
        &frame.body[start..end]
    }

    #[test]
    fn a_frame_survives_any_pieces() {
        let mut bytes = Vec::new();
        for number in 0..5_u64 {
            let mut head = Head::plain(Kind::Task, number);
            head.took = number * 10;
            write(&mut bytes, head, &vec![b'x'; usize::try_from(number).expect("small") * 7], &[b"ab", b""]);
        }
        for size in [1, 3, HEAD - 1, HEAD, HEAD + 1, 1000] {
            let (mut reader, mut seen) = (Reader::default(), 0);
            for piece in bytes.chunks(size) {
                reader.feed(piece);
                while let Some(frame) = reader.take().expect("good frames") {
                    assert_eq!((frame.head.number, frame.head.took), (seen, seen * 10));
                    assert_eq!(text(&frame).len() as u64, seen * 7);
                    assert_eq!(frame.layout().expect("a layout").0, [2, 0]);
                    seen += 1;
                }
            }
            assert_eq!(seen, 5);
            assert!(reader.is_empty());
        }
    }

    #[test]
    fn nonsense_is_refused() {
        let mut reader = Reader::default();
        reader.feed(&[255; 64]);
        assert!(reader.take().is_err());
        let mut head = Head::plain(Kind::Task, 1);
        head.buffers = 3;
        assert!(Frame { head, body: vec![0; 23], memory: None }.layout().is_err());
        assert!(Frame { head, body: vec![255; 24], memory: None }.layout().is_err());
    }

    #[test]
    fn frames_and_descriptors_keep_their_order_over_a_full_socket() {
        let (here, there) = UnixStream::pair().expect("a pair");
        here.set_nonblocking(true).expect("set");
        there.set_nonblocking(true).expect("set");
        let (mut writer, mut segments) = (Writer::default(), Segments::default());
        for number in 0..40_u8 {
            let mut head = Head::plain(Kind::Returned, u64::from(number));
            let buffer = [number; 10];
            let buffers: &[&[u8]] = if number % 3 == 0 { &[&buffer] } else { &[] };
            // The first ones find segments; those that come when all are in use get files.
            let beside = if number % 2 == 0 { Beside::Segments } else { Beside::Files };
            let memory = beside.put(&mut head, buffers, &mut segments);
            writer.push(head, &vec![number; 30_000], buffers, memory);
        }
        let (mut reader, mut seen) = (Reader::default(), 0_u8);
        while seen < 40 {
            writer.flush(here.as_fd()).expect("sent");
            while let Received::Bytes(_) = reader.fill(there.as_fd()).expect("received") {
                while let Some(frame) = reader.take().expect("good frames") {
                    assert_eq!(frame.head.number, u64::from(seen));
                    assert_eq!(text(&frame), vec![seen; 30_000]);
                    assert_eq!(frame.memory.is_some(), seen % 3 == 0);
                    if let Some(memory) = &frame.memory {
                        memory.take(10).expect("ten bytes");
                        assert!(memory.take(1 << 40).is_err());
                    }
                    seen += 1;
                }
            }
        }
        assert!(writer.is_empty());
    }
}
