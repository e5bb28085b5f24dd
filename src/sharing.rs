//! Memory and descriptors that processes share: mappings, the buffer protocol, sockets that carry descriptors, and the ends
//! of processes. All of it is Linux's.
#![expect(unsafe_code, reason = "system calls that the standard library lacks, and memory that other processes write")]

use std::alloc::{self, Layout};
use std::cmp::Ordering as Order;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::FileExt;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};

/// How many descriptors one message brings at most.
pub const MOST_DESCRIPTORS: usize = 4;

/// The bytes of a cache line: parts that travel together don't share one.
const LINE: usize = 64;

/// The bytes of a huge page, and of the memory for which they are asked.
const HUGE: usize = 2 << 20;

/// The largest segment in bytes, and the bytes of all that one sender keeps.
const LARGEST_SEGMENT: usize = 32 << 20;
const ALL_SEGMENTS: usize = 64 << 20;

/// The smallest segment in bytes.
const SMALLEST_SEGMENT: usize = 256 << 10;

/// How many segments a sender keeps.
pub const MOST_SEGMENTS: usize = 8;

/// A result of the system's as Rust has it.
fn checked(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn owned(result: libc::c_int) -> io::Result<OwnedFd> {
    let descriptor = checked(result)?;
    // SAFETY: the system has just made it, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// Takes over a descriptor that is somebody's no more.
#[must_use]
pub fn adopt(descriptor: RawFd) -> OwnedFd {
    // SAFETY: who hands it over closes it nowhere else.
    unsafe { OwnedFd::from_raw_fd(descriptor) }
}

/// Two ends of a socket that keeps messages apart.
pub fn message_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut ends: [libc::c_int; 2] = [-1; 2];
    // SAFETY: there is room for two descriptors.
    let result =
        unsafe { libc::socketpair(libc::AF_UNIX, libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC, 0, ends.as_mut_ptr()) };
    checked(result)?;
    Ok((owned(ends[0])?, owned(ends[1])?))
}

/// What a look into a socket has found.
pub enum Received {
    /// So many bytes.
    Bytes(usize),
    /// Nothing yet.
    Nothing,
    /// The other end is closed.
    End,
}

/// Room for the descriptors of one message, aligned as the system wants it.
#[repr(align(8))]
struct Control([u8; 64]);

/// Receives bytes, and appends the descriptors that came along; waits for them only where the socket blocks.
pub fn receive(socket: BorrowedFd<'_>, bytes: &mut [u8], into: &mut Vec<OwnedFd>) -> io::Result<Received> {
    let mut control = Control([0; 64]);
    let mut vector = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
    // SAFETY: all zeros are a message without anything.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut vector;
    message.msg_iovlen = 1;
    message.msg_control = control.0.as_mut_ptr().cast();
    message.msg_controllen = control.0.len();
    let count = loop {
        // SAFETY: the vector and the room for descriptors are alive.
        let count = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, libc::MSG_CMSG_CLOEXEC) };
        if count >= 0 {
            break count.unsigned_abs();
        }
        let error = io::Error::last_os_error();
        match error.kind() {
            io::ErrorKind::Interrupted => {}
            io::ErrorKind::WouldBlock => return Ok(Received::Nothing),
            io::ErrorKind::ConnectionReset => return Ok(Received::End),
            _ => return Err(error),
        }
    };
    // SAFETY: the system has filled the message in.
    let mut header = unsafe { libc::CMSG_FIRSTHDR(&raw const message) };
    while let Some(place) = NonNull::new(header) {
        // SAFETY: the header lies in `control`, and was written by the system.
        let head = unsafe { place.read() };
        if head.cmsg_level == libc::SOL_SOCKET && head.cmsg_type == libc::SCM_RIGHTS {
            // SAFETY: a computation with the header's address.
            let data = unsafe { libc::CMSG_DATA(header) }.cast::<[u8; size_of::<RawFd>()]>();
            // SAFETY: a computation.
            let empty = unsafe { libc::CMSG_LEN(0) } as usize;
            for number in 0..(head.cmsg_len - empty) / size_of::<RawFd>() {
                // SAFETY: so many descriptors lie there.
                let place = unsafe { data.add(number) };
                // SAFETY: bytes, which may lie anywhere.
                let descriptor = unsafe { place.read() };
                into.push(owned(RawFd::from_ne_bytes(descriptor))?);
            }
        }
        // SAFETY: the next one in the same message, or null.
        header = unsafe { libc::CMSG_NXTHDR(&raw const message, header) };
    }
    Ok(if count == 0 { Received::End } else { Received::Bytes(count) })
}

/// Sends bytes with descriptors; says how many bytes went, which is 0 where the socket doesn't block and is full.
pub fn send(socket: BorrowedFd<'_>, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<usize> {
    assert!(descriptors.len() <= MOST_DESCRIPTORS, "more descriptors than one message brings");
    let mut control = Control([0; 64]);
    let mut vector = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    // SAFETY: all zeros are a message without anything.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut vector;
    message.msg_iovlen = 1;
    if !descriptors.is_empty() {
        let length = u32::try_from(size_of_val(descriptors)).map_err(io::Error::other)?;
        message.msg_control = control.0.as_mut_ptr().cast();
        // SAFETY: a computation.
        message.msg_controllen = unsafe { libc::CMSG_SPACE(length) } as usize;
        // SAFETY: a computation.
        let whole = unsafe { libc::CMSG_LEN(length) } as usize;
        // SAFETY: the room is large enough for one header.
        let header = unsafe { libc::CMSG_FIRSTHDR(&raw const message) };
        // SAFETY: the header lies in `control`, which is aligned.
        let head = unsafe { &mut *header };
        head.cmsg_level = libc::SOL_SOCKET;
        head.cmsg_type = libc::SCM_RIGHTS;
        head.cmsg_len = whole;
        // SAFETY: a computation with the header's address.
        let data = unsafe { libc::CMSG_DATA(header) }.cast::<[u8; size_of::<RawFd>()]>();
        for (number, descriptor) in descriptors.iter().enumerate() {
            // SAFETY: there is room for so many.
            let place = unsafe { data.add(number) };
            // SAFETY: bytes, which may lie anywhere.
            unsafe { place.write(descriptor.as_raw_fd().to_ne_bytes()) };
        }
    }
    loop {
        // SAFETY: the bytes and the descriptors are alive; nobody writes through the vector.
        let count = unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const message, libc::MSG_NOSIGNAL) };
        if count >= 0 {
            return Ok(count.unsigned_abs());
        }
        let error = io::Error::last_os_error();
        match error.kind() {
            io::ErrorKind::Interrupted => {}
            io::ErrorKind::WouldBlock => return Ok(0),
            _ => return Err(error),
        }
    }
}

/// Memory that has no name in the file system, `length` bytes of zeros.
pub fn nameless(length: usize) -> io::Result<File> {
    // SAFETY: a name that ends in a zero byte.
    let file = unsafe { libc::memfd_create(c"ferrule".as_ptr(), libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING) };
    let file = File::from(owned(file)?);
    file.set_len(length as u64)?;
    Ok(file)
}

/// Where parts of so many bytes lie, one after the other, each aligned to a cache line; and where the last one ends.
pub fn places(lengths: impl IntoIterator<Item = usize>) -> (Vec<usize>, usize) {
    let mut end = 0_usize;
    let places = lengths.into_iter().map(|length| {
        let place = end.next_multiple_of(LINE);
        end = place.saturating_add(length);
        place
    });
    (places.collect(), end)
}

/// Nameless memory that holds the parts at their [`places`] and can't be changed by anybody any more.
pub fn sealed(parts: &[&[u8]]) -> io::Result<OwnedFd> {
    let (places, length) = places(parts.iter().map(|part| part.len()));
    let file = nameless(length)?;
    for (part, place) in parts.iter().zip(places) {
        file.write_all_at(part, place as u64)?;
    }
    seal(&file, libc::F_SEAL_WRITE)?;
    Ok(OwnedFd::from(file))
}

/// Has nobody change a file's size any more, nor whatever else `seals` says.
fn seal(file: &File, seals: libc::c_int) -> io::Result<()> {
    let seals = seals | libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_SEAL;
    // SAFETY: the descriptor is open.
    checked(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_ADD_SEALS, seals) }).map(drop)
}

/// A file's length in bytes.
fn size(file: BorrowedFd<'_>) -> io::Result<usize> {
    // SAFETY: all zeros are a valid answer.
    let mut status: libc::stat = unsafe { std::mem::zeroed() };
    // SAFETY: there is room for the answer.
    checked(unsafe { libc::fstat(file.as_raw_fd(), &raw mut status) })?;
    usize::try_from(status.st_size).map_err(io::Error::other)
}

fn too_short() -> io::Error {
    io::Error::other("the memory received is shorter than announced")
}

/// Mapped memory.
pub struct Mapping {
    start: NonNull<u8>,
    length: usize,
}

// SAFETY: the memory is no thread's own; who reads and writes it is for the owner to settle.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    fn new(file: RawFd, length: usize, flags: libc::c_int) -> io::Result<Self> {
        let access = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: the system chooses the place.
        let start = unsafe { libc::mmap(ptr::null_mut(), length, access, flags, file, 0) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        NonNull::new(start.cast()).map(|start| Self { start, length }).ok_or_else(io::Error::last_os_error)
    }

    /// Memory that is seen by all who map the file this way.
    pub fn shared(file: BorrowedFd<'_>, length: usize) -> io::Result<Self> {
        Self::new(file.as_raw_fd(), length, libc::MAP_SHARED)
    }

    /// Memory of this process alone, all zeros.
    fn anonymous(length: usize) -> io::Result<Self> {
        Self::new(-1, length, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS)
    }

    /// A copy of the file that is made page by page as it is written to. The whole file, which must be so long.
    pub fn private(file: BorrowedFd<'_>, length: usize) -> io::Result<Self> {
        if size(file)? < length {
            return Err(too_short());
        }
        Self::new(file.as_raw_fd(), length, libc::MAP_PRIVATE)
    }

    /// A number in the memory that all may change.
    ///
    /// # Panics
    /// If it lies outside.
    #[must_use]
    pub fn word(&self, number: usize) -> &AtomicU64 {
        assert!((number + 1) * size_of::<u64>() <= self.length, "a word outside of the mapping");
        // SAFETY: inside of the mapping.
        let place = unsafe { self.start.cast::<AtomicU64>().add(number) };
        // SAFETY: mappings begin at pages, so it is aligned; nobody reads or writes it but as an atomic number.
        unsafe { place.as_ref() }
    }

    /// Writes bytes; nobody else writes there now.
    ///
    /// # Panics
    /// If they don't fit.
    pub fn write(&self, place: usize, bytes: &[u8]) {
        assert!(place.checked_add(bytes.len()).is_some_and(|end| end <= self.length), "bytes outside of the mapping");
        // SAFETY: inside of the mapping.
        let start = unsafe { self.start.add(place) };
        // SAFETY: the source is a slice of this process's, the target is inside of the mapping.
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), start.as_ptr(), bytes.len()) };
    }

    /// A copy of what lies there.
    ///
    /// # Panics
    /// If it doesn't.
    #[must_use]
    pub fn read(&self, place: usize, length: usize) -> Vec<u8> {
        assert!(place.checked_add(length).is_some_and(|end| end <= self.length), "bytes outside of the mapping");
        let mut bytes = Vec::with_capacity(length);
        // SAFETY: inside of the mapping.
        let start = unsafe { self.start.add(place) };
        // SAFETY: there is room for so many.
        unsafe { ptr::copy_nonoverlapping(start.as_ptr(), bytes.as_mut_ptr(), length) };
        // SAFETY: they have just been written.
        unsafe { bytes.set_len(length) };
        bytes
    }

    /// Its length in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether there is nothing in it, which the system doesn't allow.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: nobody has a reference into it any more, and it is unmapped once.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.length) };
    }
}

/// Whether the system gives huge pages to those who ask.
static HUGE_PAGES: LazyLock<bool> = LazyLock::new(|| {
    std::fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled").is_ok_and(|text| !text.contains("[never]"))
});

/// Memory of this process's own: what came from another one lies in it.
pub enum Memory {
    /// Mapped, and where it begins in the mapping.
    Mapped(Mapping, usize),
    /// From the allocator.
    Heap(NonNull<u8>, Layout),
}

// SAFETY: the memory is no thread's own; who reads and writes it is for the owner to settle.
unsafe impl Send for Memory {}
// SAFETY: as above.
unsafe impl Sync for Memory {}

impl Memory {
    /// So many bytes, whatever lies in them.
    ///
    /// To take a page from the system for the first time costs several times what it costs to fill it. So much memory is
    /// taken in huge pages, where the system has such, and little from the allocator, which gives out the same again.
    fn unused(length: usize) -> io::Result<Self> {
        if length >= HUGE && *HUGE_PAGES {
            let mapping = Mapping::anonymous(length.saturating_add(HUGE))?;
            let start = mapping.start.addr().get();
            let skipped = start.next_multiple_of(HUGE) - start;
            // SAFETY: inside of the mapping, which is larger than asked for by so much.
            let place = unsafe { mapping.start.add(skipped) };
            // Advice, which the system may be unable to take.
            // SAFETY: nothing lies there yet.
            unsafe { libc::madvise(place.as_ptr().cast(), length, libc::MADV_HUGEPAGE) };
            return Ok(Self::Mapped(mapping, skipped));
        }
        let layout = Layout::from_size_align(length.max(1), LINE).map_err(io::Error::other)?;
        // SAFETY: the layout isn't empty.
        let start = unsafe { alloc::alloc(layout) };
        NonNull::new(start).map(|start| Self::Heap(start, layout)).ok_or_else(|| io::ErrorKind::OutOfMemory.into())
    }

    fn start(&self) -> NonNull<u8> {
        match self {
            // SAFETY: inside of the mapping.
            Self::Mapped(mapping, skipped) => unsafe { mapping.start.add(*skipped) },
            Self::Heap(start, _) => *start,
        }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        if let Self::Heap(start, layout) = self {
            // SAFETY: it came from there, with this layout, and nobody has a reference into it any more.
            unsafe { alloc::dealloc(start.as_ptr(), *layout) };
        }
    }
}

/// Memory that two processes share, over and over again: one writes parts into it, the other copies them out.
///
/// In its first word stands whether somebody is still to read it. Its size is sealed, so that neither can pull it from
/// under the other.
pub struct Segment(Mapping);

impl Segment {
    fn new(length: usize) -> io::Result<(Self, OwnedFd)> {
        let file = nameless(length)?;
        seal(&file, 0)?;
        Ok((Self(Mapping::shared(file.as_fd(), length)?), OwnedFd::from(file)))
    }

    /// The other process's.
    pub fn received(file: BorrowedFd<'_>) -> io::Result<Self> {
        let length = size(file)?;
        if length < LINE {
            return Err(too_short());
        }
        Mapping::shared(file, length).map(Self)
    }

    fn is_free(&self) -> bool {
        self.0.word(0).load(Ordering::Acquire) == 0
    }

    fn put(&self, parts: &[&[u8]], places: &[usize]) {
        self.0.word(0).store(1, Ordering::Relaxed);
        for (part, place) in parts.iter().zip(places) {
            self.0.write(LINE + place, part);
        }
    }

    /// Nobody is to read it any more.
    pub fn give_back(&self) {
        self.0.word(0).store(0, Ordering::Release);
    }

    /// Copies what it holds, and gives it back.
    pub fn take(&self, length: usize) -> io::Result<Memory> {
        let taken = if self.0.length - LINE < length {
            Err(too_short())
        } else {
            Memory::unused(length).inspect(|memory| {
                // SAFETY: inside of the mapping, by the comparison.
                let start = unsafe { self.0.start.add(LINE) };
                // SAFETY: there is room for so many bytes, and nobody else knows it.
                unsafe { ptr::copy_nonoverlapping(start.as_ptr(), memory.start().as_ptr(), length) };
            })
        };
        self.give_back();
        taken
    }
}

/// The segments that a sender has.
#[derive(Default)]
pub struct Segments(Vec<Segment>);

impl Segments {
    /// Writes parts into a segment that nobody is to read: its number, and its descriptor where the other side doesn't
    /// know it yet. `None` where they are too large, or others are still to be read.
    pub fn put(&mut self, parts: &[&[u8]]) -> io::Result<Option<(u8, Option<OwnedFd>)>> {
        let (places, length) = places(parts.iter().map(|part| part.len()));
        let needed = length.saturating_add(LINE);
        let fits = |segment: &&(usize, &Segment)| segment.1.is_free() && segment.1.0.length >= needed;
        let free = self.0.iter().enumerate().filter(|each| fits(&each)).min_by_key(|(_, segment)| segment.0.length);
        let (number, file) = if let Some((number, _)) = free {
            (number, None)
        } else {
            let Some((number, file)) = self.another(needed)? else { return Ok(None) };
            (number, Some(file))
        };
        self.0[number].put(parts, &places);
        Ok(Some((u8::try_from(number).map_err(io::Error::other)?, file)))
    }

    /// Another segment of so many bytes and more: in the place of the smallest that nobody reads, where there is no room
    /// for more of them.
    fn another(&mut self, needed: usize) -> io::Result<Option<(usize, OwnedFd)>> {
        if needed > LARGEST_SEGMENT {
            return Ok(None);
        }
        let length = needed.next_power_of_two().max(SMALLEST_SEGMENT);
        let all: usize = self.0.iter().map(|segment| segment.0.length).sum();
        if self.0.len() < MOST_SEGMENTS && all + length <= ALL_SEGMENTS {
            let (segment, file) = Segment::new(length)?;
            self.0.push(segment);
            return Ok(Some((self.0.len() - 1, file)));
        }
        let free = self.0.iter_mut().enumerate().filter(|(_, segment)| segment.is_free());
        let Some((number, place)) = free.min_by_key(|(_, segment)| segment.0.length) else { return Ok(None) };
        if all - place.0.length + length > ALL_SEGMENTS {
            return Ok(None);
        }
        let (segment, file) = Segment::new(length)?;
        *place = segment;
        Ok(Some((number, file)))
    }
}

/// What a receiver knows of the sender's segments.
#[derive(Clone, Default)]
pub struct Known(Vec<Arc<Segment>>);

impl Known {
    /// A new one by this number: it may replace another.
    pub fn learn(&mut self, number: u8, file: BorrowedFd<'_>) -> io::Result<()> {
        let (number, segment) = (usize::from(number), Arc::new(Segment::received(file)?));
        match number.cmp(&self.0.len()) {
            Order::Less => self.0[number] = segment,
            Order::Equal => self.0.push(segment),
            Order::Greater => return Err(io::Error::other("a segment out of turn")),
        }
        Ok(())
    }

    /// The one by this number.
    pub fn get(&self, number: u8) -> io::Result<Arc<Segment>> {
        self.0.get(usize::from(number)).cloned().ok_or_else(|| io::Error::other("a segment that nobody knows"))
    }
}

/// Descriptors that are watched together.
pub struct Watch(OwnedFd);

/// Something happened to a descriptor: its name, whether there is something to read (or its end), and room to write.
pub type Happening = (u64, bool, bool);

impl Watch {
    /// Nothing watched yet.
    pub fn new() -> io::Result<Self> {
        // SAFETY: no memory is involved.
        owned(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) }).map(Self)
    }

    /// Watches a descriptor. Each change is told once, to one thread.
    pub fn add(&self, descriptor: BorrowedFd<'_>, name: u64) -> io::Result<()> {
        let events = (libc::EPOLLIN | libc::EPOLLOUT | libc::EPOLLRDHUP | libc::EPOLLET).cast_unsigned();
        let mut event = libc::epoll_event { events, u64: name };
        let (watch, descriptor) = (self.0.as_raw_fd(), descriptor.as_raw_fd());
        // SAFETY: the event is read during the call.
        checked(unsafe { libc::epoll_ctl(watch, libc::EPOLL_CTL_ADD, descriptor, &raw mut event) }).map(drop)
    }

    /// Waits for something to happen, `milliseconds` at most; -1 is for ever.
    pub fn wait(&self, milliseconds: i32, into: &mut Vec<Happening>) {
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; 64];
        // SAFETY: there is room for 64 events.
        let count = unsafe { libc::epoll_wait(self.0.as_raw_fd(), events.as_mut_ptr(), 64, milliseconds) };
        for event in events.iter().take(usize::try_from(count).unwrap_or(0)) {
            let (events, name) = (event.events, event.u64);
            let writable = events & libc::EPOLLOUT.cast_unsigned() != 0;
            into.push((name, events & !libc::EPOLLOUT.cast_unsigned() != 0, writable));
        }
    }
}

/// A bell that wakes whoever watches it.
pub struct Bell(OwnedFd);

impl Bell {
    /// A silent one.
    pub fn new() -> io::Result<Self> {
        // SAFETY: no memory is involved.
        owned(unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) }).map(Self)
    }

    /// The descriptor, to be watched.
    #[must_use]
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        use std::os::fd::AsFd;
        self.0.as_fd()
    }

    /// Rings.
    pub fn ring(&self) {
        let one = 1_u64;
        // SAFETY: eight bytes are read.
        unsafe { libc::write(self.0.as_raw_fd(), (&raw const one).cast(), 8) };
    }

    /// Has rung.
    pub fn hush(&self) {
        let mut count = 0_u64;
        // SAFETY: there is room for eight bytes.
        unsafe { libc::read(self.0.as_raw_fd(), (&raw mut count).cast(), 8) };
    }
}

/// Sends a signal to a process by a descriptor of it, which never means another one; says whether there was one.
#[expect(clippy::must_use_candidate, reason = "who kills rarely asks")]
pub fn signal(process: BorrowedFd<'_>, signal: i32) -> bool {
    let nothing = ptr::null::<libc::siginfo_t>();
    // SAFETY: no memory is involved.
    unsafe { libc::syscall(libc::SYS_pidfd_send_signal, process.as_raw_fd(), signal, nothing, 0) == 0 }
}

/// Has this process killed when the thread that made it ends; says who its parent is now.
pub fn die_with_parent() -> io::Result<i32> {
    // SAFETY: no memory is involved.
    checked(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) })?;
    // SAFETY: no memory is involved.
    Ok(unsafe { libc::getppid() })
}

/// Keeps all signals from this thread: they are the others'.
pub fn block_signals() {
    // SAFETY: all zeros are a set, whatever it holds.
    let mut all: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: there is room for a set.
    unsafe { libc::sigfillset(&raw mut all) };
    // SAFETY: the set has been filled.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, ptr::null_mut()) };
}

/// A socket's descriptor that neither end waits for.
pub fn unblock(descriptor: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: the descriptor is open.
    let flags = checked(unsafe { libc::fcntl(descriptor.as_raw_fd(), libc::F_GETFL) })?;
    // SAFETY: the descriptor is open.
    checked(unsafe { libc::fcntl(descriptor.as_raw_fd(), libc::F_SETFL, flags | libc::O_NONBLOCK) }).map(drop)
}

/// Bytes of memory that a process has in use.
#[must_use]
pub fn resident(pid: i32) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
    let pages: u64 = text.split(' ').nth(1)?.parse().ok()?;
    // SAFETY: no memory is involved.
    let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    Some(pages * u64::try_from(size).ok()?)
}

/// What Python sees of all this.
#[cfg(feature = "python")]
pub mod binding {
    use std::ffi::c_int;
    use std::sync::Arc;

    use pyo3::buffer::PyBuffer;
    use pyo3::exceptions::PyBufferError;
    use pyo3::ffi;
    use pyo3::prelude::*;
    use pyo3::types::PyBytes;

    use super::{Memory, places};

    /// A part of memory that came from another process, and is this one's own.
    #[pyclass(frozen, module = "ferrule._core")]
    pub struct SharedPart {
        memory: Arc<Memory>,
        place: usize,
        length: usize,
    }

    #[pymethods]
    impl SharedPart {
        fn __len__(&self) -> usize {
            self.length
        }

        /// # Safety
        /// Called by the interpreter, with a view to be filled in.
        unsafe fn __getbuffer__(this: Bound<'_, Self>, view: *mut ffi::Py_buffer, flags: c_int) -> PyResult<()> {
            if view.is_null() {
                return Err(PyBufferError::new_err("there is no view to fill in"));
            }
            let part = this.get();
            // SAFETY: the place is inside of the memory: `parts` has seen to it.
            let start = unsafe { part.memory.start().add(part.place) }.as_ptr();
            let length = isize::try_from(part.length)?;
            // SAFETY: the view keeps the part alive, and the part its memory. It is writable: this process's own.
            let result = unsafe { ffi::PyBuffer_FillInfo(view, this.as_ptr(), start.cast(), length, 0, flags) };
            if result < 0 { Err(PyErr::fetch(this.py())) } else { Ok(()) }
        }
    }

    /// The parts of memory that was received; `take` is given its length and has it be this process's own.
    pub fn parts(
        py: Python<'_>,
        lengths: &[usize],
        take: impl FnOnce(usize) -> std::io::Result<Memory>,
    ) -> PyResult<Vec<Py<PyAny>>> {
        let (places, whole) = places(lengths.iter().copied());
        let memory = Arc::new(take(whole)?);
        let part = |(place, length): (usize, &usize)| {
            Ok(Py::new(py, SharedPart { memory: Arc::clone(&memory), place, length: *length })?.into_any())
        };
        places.into_iter().zip(lengths).map(part).collect()
    }

    /// What is in a `bytes` object, with or without the interpreter lock: it never changes.
    #[must_use]
    pub fn bytes_of_text(text: &Py<PyBytes>) -> &[u8] {
        // SAFETY: nothing is done with the token but reading memory that the reference keeps alive and nobody writes to.
        let py = unsafe { Python::assume_attached() };
        text.as_bytes(py)
    }

    /// The bytes of a buffer that is one piece.
    ///
    /// Its owner may write to it meanwhile, as with every buffer that Python exports: what is read then is a mixture.
    #[must_use]
    pub fn bytes_of(buffer: &PyBuffer<u8>) -> &[u8] {
        let (start, length) = (buffer.buf_ptr().cast::<u8>(), buffer.len_bytes());
        if length == 0 {
            return &[];
        }
        // SAFETY: the exporter keeps so many bytes in place as long as the buffer is held; `raw()` made it one piece.
        unsafe { std::slice::from_raw_parts(start, length) }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::sync::atomic::Ordering;

    use super::{
        ALL_SEGMENTS, HUGE, Known, LARGEST_SEGMENT, MOST_SEGMENTS, Mapping, Memory, Received, Segments, message_pair,
        nameless, places, receive, sealed, send,
    };

    fn read(memory: &Memory, place: usize, length: usize) -> Vec<u8> {
        // SAFETY: the tests ask for what lies there.
        let start = unsafe { memory.start().add(place) };
        // SAFETY: as above; it has been written.
        unsafe { std::slice::from_raw_parts(start.as_ptr(), length) }.to_vec()
    }

    #[test]
    fn segments_are_used_again_once_they_are_given_back() {
        let (mut sender, mut receiver) = (Segments::default(), Known::default());
        let (number, file) = sender.put(&[b"one", b"two"]).expect("memory").expect("room");
        receiver.learn(number, file.expect("a new one").as_fd()).expect("mapped");
        // Nobody has read the first: another one.
        let (other, file) = sender.put(&[&vec![7; HUGE]]).expect("memory").expect("room");
        assert_ne!(number, other);
        receiver.learn(other, file.expect("a new one").as_fd()).expect("mapped");
        let memory = receiver.get(number).expect("known").take(67).expect("memory");
        assert_eq!((read(&memory, 0, 3), read(&memory, 64, 3)), (b"one".to_vec(), b"two".to_vec()));
        let large = receiver.get(other).expect("known").take(HUGE).expect("memory");
        assert_eq!(read(&large, HUGE - 1, 1), [7]);
        let (again, file) = sender.put(&[b"three"]).expect("memory").expect("room");
        assert_eq!((again, file.is_none()), (number, true));
        assert_eq!(read(&memory, 0, 3), b"one");
        assert_eq!(read(&receiver.get(number).expect("known").take(5).expect("memory"), 0, 5), b"three");
        assert!(receiver.get(7).is_err());
        assert!(receiver.learn(7, nameless(4096).expect("memory").as_fd()).is_err());
        assert!(receiver.get(number).expect("known").take(1 << 30).is_err());
    }

    #[test]
    fn segments_are_few_and_bounded() {
        let (mut sender, mut receiver) = (Segments::default(), Known::default());
        assert!(sender.put(&[&vec![0; LARGEST_SEGMENT]]).expect("memory").is_none());
        for number in 0..MOST_SEGMENTS {
            let (given, file) = sender.put(&[b"small"]).expect("memory").expect("room");
            assert_eq!(usize::from(given), number);
            receiver.learn(given, file.expect("a new one").as_fd()).expect("mapped");
        }
        assert!(sender.put(&[b"one too many"]).expect("memory").is_none());
        // A larger one takes the place of one that is free.
        receiver.get(3).expect("known").give_back();
        let (given, file) = sender.put(&[&vec![1; HUGE]]).expect("memory").expect("room");
        assert_eq!(given, 3);
        receiver.learn(given, file.expect("a new one").as_fd()).expect("mapped");
        assert_eq!(read(&receiver.get(3).expect("known").take(HUGE).expect("memory"), 5, 1), [1]);
        let mut large = Segments::default();
        let most = (0..9).filter(|_| large.put(&[&vec![0; LARGEST_SEGMENT / 2]]).expect("memory").is_some()).count();
        assert!(most * LARGEST_SEGMENT <= ALL_SEGMENTS, "{most}");
    }

    #[test]
    fn descriptors_travel_with_bytes() {
        let (here, there) = message_pair().expect("a pair");
        let memory = sealed(&[b"one", b"two"]).expect("memory");
        assert_eq!(send(here.as_fd(), b"hello", &[memory.as_fd()]).expect("sent"), 5);
        drop(memory);
        let (mut bytes, mut descriptors) = ([0; 16], Vec::new());
        let received = receive(there.as_fd(), &mut bytes, &mut descriptors).expect("received");
        assert!(matches!(received, Received::Bytes(5)));
        let mapping = Mapping::private(descriptors[0].as_fd(), 67).expect("mapped");
        assert_eq!((mapping.read(0, 3), mapping.read(64, 3)), (b"one".to_vec(), b"two".to_vec()));
        mapping.write(0, b"own");
        let again = Mapping::private(descriptors[0].as_fd(), 67).expect("mapped");
        assert_eq!(again.read(0, 3), b"one");
        assert!(Mapping::private(descriptors[0].as_fd(), 68).is_err());
        drop(here);
        assert!(matches!(receive(there.as_fd(), &mut bytes, &mut descriptors), Ok(Received::End)));
    }

    #[test]
    fn a_shared_mapping_is_shared() {
        let file = nameless(4096).expect("memory");
        let one = Mapping::shared(file.as_fd(), 4096).expect("mapped");
        let other = Mapping::shared(file.as_fd(), 4096).expect("mapped");
        one.word(3).store(7, Ordering::SeqCst);
        assert_eq!(other.word(3).load(Ordering::SeqCst), 7);
    }

    #[test]
    fn parts_are_aligned() {
        assert_eq!(places([3, 0, 64, 65]), (vec![0, 64, 64, 128], 193));
        assert_eq!(places([]), (vec![], 0));
    }
}
