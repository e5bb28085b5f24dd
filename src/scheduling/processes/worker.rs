//! A worker's end of the wire.

use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use pyo3::buffer::PyBuffer;
use pyo3::prelude::*;
use pyo3::types::{PyByteArray, PyBytes, PyList, PyTuple};

use super::wire::{Beside, Frame, Head, Kind, Reader, write};
use super::{FILLED, FLUSHES, OUTBOX, RESULTS, begin};
use crate::clock;
use crate::guarding::{call, call_method, interned};
use crate::lifecycle;
use crate::sharing::binding::{bytes_of, parts};
use crate::sharing::{self, Mapping, Received, Segments};

/// For how long results are gathered, in nanoseconds, while more is to do.
const GATHERING: u64 = 300_000;

/// Buffers of so many bytes and more travel beside the pickle.
pub const LARGE: usize = 64 << 10;

/// To copy so many bytes takes longer than to let go of the interpreter lock.
const MUCH: usize = 1 << 20;

/// A call is short that takes no more nanoseconds, and so many may follow it before the clock is looked at again.
const SHORT: u64 = 2_000;
const MOST_UNWATCHED: usize = 7;

/// Gathers the buffers that a pickler meets; `pickle`'s `buffer_callback`.
#[pyclass(frozen, module = "ferrule._core")]
pub struct Buffers {
    buffers: Mutex<Vec<PyBuffer<u8>>>,
    inside: bool,
}

impl Buffers {
    /// None yet.
    #[must_use]
    pub fn none() -> Self {
        Self { buffers: Mutex::default(), inside: false }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<PyBuffer<u8>>> {
        self.buffers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes what was gathered.
    pub fn take(&self) -> Vec<PyBuffer<u8>> {
        std::mem::take(&mut *self.lock())
    }
}

#[pymethods]
impl Buffers {
    #[new]
    #[pyo3(signature = (*, inside=false))]
    fn new(inside: bool) -> Self {
        Self { buffers: Mutex::default(), inside }
    }

    /// Whether the pickler is to take the buffer into the pickle.
    fn __call__(&self, buffer: &Bound<'_, PyAny>) -> PyResult<bool> {
        if self.inside {
            return Ok(true);
        }
        let raw = call_method(buffer, interned!(buffer.py(), "raw"), &[])?;
        let buffer = PyBuffer::<u8>::get(&raw)?;
        if buffer.len_bytes() < LARGE {
            return Ok(true);
        }
        let mut buffers = self.lock();
        if buffers.len() >= usize::from(u16::MAX) {
            return Ok(true);
        }
        buffers.push(buffer);
        Ok(false)
    }

    /// Forgets them: the pickle is made anew.
    fn clear(&self) {
        let gone = self.take();
        drop(gone);
    }
}

/// A frame's text and buffers as Python sees them.
pub fn unpacked<'py>(py: Python<'py>, frame: &Frame) -> PyResult<(Bound<'py, PyBytes>, Vec<Py<PyAny>>)> {
    let (lengths, start, end) = frame.layout()?;
    let text = PyBytes::new(py, &frame.body[start..end]);
    let buffers = match &frame.memory {
        _ if lengths.is_empty() => Vec::new(),
        Some(memory) => parts(py, &lengths, |whole| {
            // Who copies much lets others go on meanwhile.
            if whole > MUCH { lifecycle::detached(py, || memory.take(whole)) } else { memory.take(whole) }
        })?,
        None => {
            let mut place = end;
            let mut buffers = Vec::with_capacity(lengths.len());
            for length in lengths {
                buffers.push(PyByteArray::new(py, &frame.body[place..place + length]).into_any().unbind());
                place += length;
            }
            buffers
        }
    };
    Ok((text, buffers))
}

/// What a worker sends and receives by.
#[pyclass(frozen, module = "ferrule._core")]
pub struct WorkerEnd {
    socket: OwnedFd,
    outbox: Mapping,
    beside: Beside,
    generation: u64,
    incoming: Mutex<Reader>,
    // Held while results are written or sent.
    outgoing: Mutex<Outgoing>,
    // How many events were told: who takes them from the socket and from the outbox tells them apart by their numbers.
    events: AtomicU64,
    since: AtomicU64,
}

struct Outgoing {
    /// When results were last sent.
    sent: u64,
    segments: Segments,
}

impl WorkerEnd {
    fn outgoing(&self) -> MutexGuard<'_, Outgoing> {
        self.outgoing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn filled(&self) -> usize {
        usize::try_from(self.outbox.word(FILLED).load(Ordering::Acquire)).unwrap_or(0)
    }

    fn send_all(&self, mut bytes: &[u8], memory: Option<&OwnedFd>) -> std::io::Result<()> {
        let mut memory = memory.map(AsFd::as_fd);
        while !bytes.is_empty() {
            let sent = sharing::send(self.socket.as_fd(), bytes, memory.take().as_slice())?;
            bytes = &bytes[sent..];
        }
        Ok(())
    }

    fn flush(&self, outgoing: &mut Outgoing) -> std::io::Result<()> {
        let filled = self.filled();
        if filled > 0 {
            // Odd while it changes; see `peek`.
            self.outbox.word(FLUSHES).fetch_add(1, Ordering::SeqCst);
            let sent = self.send_all(&self.outbox.read(RESULTS, filled), None);
            self.outbox.word(FILLED).store(0, Ordering::SeqCst);
            self.outbox.word(FLUSHES).fetch_add(1, Ordering::SeqCst);
            sent?;
        }
        outgoing.sent = clock::precise();
        Ok(())
    }

    /// Puts a frame into the outbox, or sends it where it is too large for that.
    fn put(&self, head: Head, text: &[u8], buffers: &[&[u8]], at_once: bool) -> std::io::Result<()> {
        let mut outgoing = self.outgoing();
        let mut head = head;
        if head.kind == Kind::Event {
            head.number = self.events.fetch_add(1, Ordering::Relaxed) + 1;
        }
        let memory = self.beside.put(&mut head, buffers, &mut outgoing.segments);
        let mut bytes = Vec::new();
        write(&mut bytes, head, text, buffers);
        let filled = self.filled();
        let room = OUTBOX - RESULTS;
        if memory.is_some() || bytes.len() > room / 2 {
            self.flush(&mut outgoing)?;
            return self.send_all(&bytes, memory.as_ref());
        }
        let mut place = filled;
        if filled + bytes.len() > room {
            self.flush(&mut outgoing)?;
            place = 0;
        }
        self.outbox.write(RESULTS + place, &bytes);
        self.outbox.word(FILLED).store((place + bytes.len()) as u64, Ordering::Release);
        if at_once { self.flush(&mut outgoing) } else { Ok(()) }
    }

    /// The next frame that is for this worker; `None` at the end.
    fn next(&self) -> std::io::Result<Option<Frame>> {
        let mut reader = self.incoming.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let Some(frame) = reader.take()? else {
                self.flush(&mut self.outgoing())?;
                match reader.fill(self.socket.as_fd())? {
                    Received::End => return Ok(None),
                    Received::Bytes(_) | Received::Nothing => continue,
                }
            };
            if frame.head.kind == Kind::Task && !begin(&self.outbox, frame.head.epoch, frame.head.number) {
                frame.refuse();
                continue;
            }
            let mut outgoing = self.outgoing();
            if self.filled() > 0 && clock::precise().saturating_sub(outgoing.sent) > GATHERING {
                self.flush(&mut outgoing)?;
            }
            return Ok(Some(frame));
        }
    }
}

#[pymethods]
impl WorkerEnd {
    /// A worker's end; both descriptors are its own from now on. `beside` says how buffers travel.
    #[new]
    fn new(socket: RawFd, outbox: RawFd, beside: u8) -> PyResult<Self> {
        let [socket, outbox] = [socket, outbox].map(sharing::adopt);
        let outbox = Mapping::shared(outbox.as_fd(), OUTBOX)?;
        Ok(Self {
            socket,
            outbox,
            beside: Beside::from_number(beside),
            generation: lifecycle::generation(),
            incoming: Mutex::default(),
            outgoing: Mutex::new(Outgoing { sent: clock::precise(), segments: Segments::default() }),
            events: AtomicU64::new(0),
            since: AtomicU64::new(0),
        })
    }

    /// Waits for the next frame: what it is about, its number, its text and its buffers; `None` where there are no more.
    #[expect(clippy::type_complexity, reason = "a tuple for Python")]
    fn receive<'py>(&self, py: Python<'py>) -> PyResult<Option<(u8, u64, Bound<'py, PyBytes>, Vec<Py<PyAny>>)>> {
        if self.generation != lifecycle::generation() {
            return Ok(None);
        }
        // The other end closed is the end, however it was closed.
        let Ok(Some(frame)) = py.detach(|| self.next()) else { return Ok(None) };
        self.since.store(clock::precise(), Ordering::Relaxed);
        let (text, buffers) = unpacked(py, &frame)?;
        Ok(Some((frame.head.kind as u8, frame.head.number, text, buffers)))
    }

    /// Says something: what about, the task's number, a text, the buffers that belong to it, and whether at once.
    #[pyo3(signature = (kind, number, text, buffers=None, *, at_once=false))]
    fn put_out(
        &self,
        py: Python<'_>,
        kind: u8,
        number: u64,
        text: &Bound<'_, PyBytes>,
        buffers: Option<&Buffers>,
        at_once: bool,
    ) -> bool {
        if self.generation != lifecycle::generation() {
            return false;
        }
        let kind = match kind {
            kind if kind == Kind::Prepared as u8 => Kind::Prepared,
            kind if kind == Kind::Ready as u8 => Kind::Ready,
            kind if kind == Kind::Failed as u8 => Kind::Failed,
            kind if kind == Kind::Returned as u8 => Kind::Returned,
            kind if kind == Kind::Raised as u8 => Kind::Raised,
            _ => Kind::Event,
        };
        let mut head = Head::plain(kind, number);
        head.took = clock::precise().saturating_sub(self.since.load(Ordering::Relaxed));
        let buffers = buffers.map(Buffers::take).unwrap_or_default();
        let slices: Vec<&[u8]> = buffers.iter().map(bytes_of).collect();
        let bytes = text.as_bytes();
        let sent = if at_once || !slices.is_empty() || bytes.len() > LARGE {
            py.detach(|| self.put(head, bytes, &slices, at_once))
        } else {
            self.put(head, bytes, &slices, false)
        };
        sent.is_ok()
    }

    /// Sends what is gathered.
    fn flush_out(&self, py: Python<'_>) {
        if self.generation == lifecycle::generation() {
            // Nobody there any more: nobody to tell.
            let _ = py.detach(|| self.flush(&mut self.outgoing()));
        }
    }
}

/// Makes calls with the items of a list from `place` on (tuples of arguments, unless there is `one_each`), and puts what
/// they return into `results`; returns the place of the next one after so many nanoseconds, or at the list's end.
#[pyfunction]
#[pyo3(name = "_make_calls")]
pub fn make_calls(
    function: &Bound<'_, PyAny>,
    items: &Bound<'_, PyList>,
    mut place: usize,
    results: &Bound<'_, PyList>,
    one_each: bool,
    length: u64,
) -> PyResult<usize> {
    let mut now = clock::precise();
    let until = now.saturating_add(length);
    let mut unwatched = 0;
    while place < items.len() {
        let item = items.get_item(place)?;
        place += 1;
        let result = if one_each { call(function, &[&item])? } else { function.call1(item.cast_into::<PyTuple>()?)? };
        results.append(result)?;
        if unwatched > 0 {
            unwatched -= 1;
            continue;
        }
        let before = std::mem::replace(&mut now, clock::precise());
        if now >= until {
            break;
        }
        // To look at the clock takes as long as a short call does. A few that follow such a one go without.
        unwatched = if now - before < SHORT { MOST_UNWATCHED } else { 0 };
    }
    Ok(place)
}

/// Has the process killed when the thread that made it ends; returns the parent's number.
#[pyfunction]
#[pyo3(name = "_die_with_parent")]
pub fn die_with_parent() -> PyResult<i32> {
    Ok(sharing::die_with_parent()?)
}
