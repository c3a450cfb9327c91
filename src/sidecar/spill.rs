//! A bounded queue of messages on the disk, for times without Kafka: append at the end, read from the front, in order.
//!
//! It is a folder of segments. A message is a length, a CRC-32 and its bytes; what a crash tore off at the end is cut off at
//! the next start. What [`Spill::append`] returned for survives SIGKILL, and with `sync` a power cut too. Where the queue is
//! full its oldest segment goes, and the caller is told how many messages went with it. The place of the front is written
//! after what was read is acknowledged: a crash in between gives those messages twice, never not at all.

use super::Message;
use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

/// Bytes before a message: its length and its CRC-32.
const HEAD_BYTES: u64 = 8;
/// Segments that a full queue has: one of them is lost at once when it overflows.
const SEGMENTS: u64 = 16;
/// A length beyond this is damage.
const MESSAGE_BYTES_MAX: u32 = 1 << 30;

/// Why the queue cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SpillError {
    /// The folder or a file in it.
    #[error("cannot {what} {path}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// The path.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// Another process has it.
    #[error("{0} is used by another sidecar; give each a folder of its own (sidecar.log.spill_dir)")]
    InUse(PathBuf),
}

/// The queue.
pub struct Spill {
    dir: PathBuf,
    _lock: File,
    cursor: File,
    bytes_max: u64,
    segments: VecDeque<Segment>,
    writer: Option<File>,
    /// The front: bytes and messages of the first segment that are done.
    done: Done,
    /// The next segment's number: never one that the cursor has seen, or a restart would skip what is in it.
    next: u64,
    /// Messages that turned out to be damaged on the disk and are gone.
    damaged: u64,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Done {
    bytes: u64,
    messages: u64,
}

struct Segment {
    number: u64,
    bytes: u64,
    messages: u64,
}

/// Some of the oldest messages, and where the front is once they are done.
pub struct Batch {
    /// The messages, oldest first.
    pub messages: Vec<Message>,
    segment: u64,
    done: Done,
}

impl Spill {
    /// Opens the folder, making it where it is missing; cuts off what a crash left half written.
    ///
    /// # Errors
    /// [`SpillError`].
    pub fn open(dir: &Path, bytes_max: u64) -> Result<Self, SpillError> {
        let failed = |what: &'static str, path: &Path| {
            let path = path.to_owned();
            move |source| SpillError::Io { what, path, source }
        };
        fs::create_dir_all(dir).map_err(failed("make", dir))?;
        let open = |name: &str| {
            let path = dir.join(name);
            OpenOptions::new()
                .create(true)
                .truncate(false)
                .read(true)
                .write(true)
                .open(&path)
                .map_err(failed("open", &path))
        };
        let lock = open("lock")?;
        lock.try_lock().map_err(|_| SpillError::InUse(dir.to_owned()))?;
        let mut cursor = open("cursor")?;
        let mut place = String::new();
        cursor.read_to_string(&mut place).map_err(failed("read", dir))?;
        let mut segments: Vec<u64> = fs::read_dir(dir)
            .map_err(failed("list", dir))?
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.strip_suffix(".log")?.parse().ok())
            .collect();
        segments.sort_unstable();
        let mut spill = Self {
            dir: dir.to_owned(),
            _lock: lock,
            cursor,
            bytes_max,
            segments: VecDeque::new(),
            writer: None,
            done: Done::default(),
            next: 1,
            damaged: 0,
        };
        for number in segments {
            let path = spill.path(number);
            let found = recover(&path).map_err(failed("read", &path))?;
            spill.segments.push_back(Segment { number, bytes: found.bytes, messages: found.messages });
            spill.next = number + 1;
        }
        spill.go_on_at(&place);
        Ok(spill)
    }

    /// The front where the cursor says it is; segments before it are done.
    fn go_on_at(&mut self, place: &str) {
        let mut numbers = place.split_whitespace().map_while(|n| n.parse::<u64>().ok());
        let (Some(segment), Some(bytes), Some(messages)) = (numbers.next(), numbers.next(), numbers.next()) else {
            return;
        };
        self.next = self.next.max(segment + 1);
        while self.segments.front().is_some_and(|first| first.number < segment) {
            self.remove_first();
        }
        if self.segments.front().is_some_and(|first| first.number == segment && first.bytes >= bytes) {
            self.done = Done { bytes, messages };
        }
    }

    /// Messages in the queue.
    #[must_use]
    pub fn messages(&self) -> u64 {
        self.segments.iter().map(|s| s.messages).sum::<u64>() - self.done.messages
    }

    /// Bytes on the disk.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.segments.iter().map(|s| s.bytes).sum()
    }

    /// Whether nothing is left.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.messages() == 0
    }

    /// Adds messages at the end; gives how many old ones had to go for them, also where it fails.
    ///
    /// # Errors
    /// Where they cannot be written, though a full disk was given room by all but the newest segment; then none of them is in
    /// the queue.
    pub fn append(&mut self, messages: &[Message], sync: bool) -> (u64, Result<(), SpillError>) {
        let mut bytes = Vec::new();
        messages.iter().for_each(|message| encode(message, &mut bytes));
        let mut lost = 0;
        while self.bytes() + bytes.len() as u64 > self.bytes_max && self.segments.len() > 1 {
            lost += self.remove_first();
        }
        loop {
            match self.write(&bytes, messages.len() as u64, sync) {
                Ok(()) => return (lost, Ok(())),
                // A disk that is full may have room for the new without the oldest. What else fails fails without them, too.
                Err(error) if is_full(&error) && self.segments.len() > 1 => lost += self.remove_first(),
                Err(source) => {
                    return (lost, Err(SpillError::Io { what: "write to", path: self.dir.clone(), source }));
                }
            }
        }
    }

    fn write(&mut self, bytes: &[u8], messages: u64, sync: bool) -> io::Result<()> {
        let full = self.segments.back().is_none_or(|last| last.bytes >= self.bytes_max / SEGMENTS);
        if full || self.writer.is_none() {
            // A new process begins a segment of its own: the last one's end was written by another.
            let number = self.next;
            let file = OpenOptions::new().create_new(true).write(true).open(self.path(number))?;
            self.next += 1;
            self.segments.push_back(Segment { number, bytes: 0, messages: 0 });
            self.writer = Some(file);
        }
        let (Some(file), Some(segment)) = (&mut self.writer, self.segments.back_mut()) else { return Ok(()) };
        let written = file.write_all(bytes).and_then(|()| if sync { file.sync_data() } else { Ok(()) });
        if written.is_err() {
            // Half a message must not stand before a whole one.
            file.set_len(segment.bytes)?;
            file.seek(SeekFrom::Start(segment.bytes))?;
            return written;
        }
        segment.bytes += bytes.len() as u64;
        segment.messages += messages;
        Ok(())
    }

    /// The oldest messages, of one segment and about so many bytes; nothing where the queue is empty.
    ///
    /// # Errors
    /// Where the segment cannot be read.
    pub fn peek(&mut self, bytes_max: u64) -> Result<Option<Batch>, SpillError> {
        loop {
            match self.peek_first(bytes_max)? {
                // The disk gave back something else than it was given: what follows cannot be found either.
                Some(batch) if batch.messages.is_empty() => {
                    if self.segments.len() == 1 {
                        self.writer = None;
                    }
                    self.damaged += self.remove_first();
                }
                other => return Ok(other),
            }
        }
    }

    /// How many messages were damaged since this was asked last.
    pub fn take_damaged(&mut self) -> u64 {
        std::mem::take(&mut self.damaged)
    }

    fn peek_first(&mut self, bytes_max: u64) -> Result<Option<Batch>, SpillError> {
        while self.segments.front().is_some_and(|first| self.done.messages >= first.messages) {
            if self.segments.len() == 1 && self.writer.is_some() {
                return Ok(None);
            }
            self.remove_first();
        }
        let Some(first) = self.segments.front() else { return Ok(None) };
        let path = self.path(first.number);
        let failed = |source| SpillError::Io { what: "read", path: path.clone(), source };
        let mut file = File::open(&path).map_err(failed)?;
        file.seek(SeekFrom::Start(self.done.bytes)).map_err(failed)?;
        let mut reader = io::BufReader::new(file.take(first.bytes - self.done.bytes));
        let mut batch = Batch { messages: Vec::new(), segment: first.number, done: self.done };
        while batch.done.bytes - self.done.bytes < bytes_max {
            let Some((message, length)) = read_one(&mut reader).map_err(failed)? else { break };
            batch.done.bytes += length;
            batch.done.messages += 1;
            batch.messages.push(message);
        }
        Ok(Some(batch))
    }

    /// What was peeked is acknowledged and leaves the queue.
    pub fn finish(&mut self, batch: &Batch) {
        // A segment that had to go meanwhile took its messages with it.
        if self.segments.front().is_none_or(|first| first.number != batch.segment) {
            return;
        }
        self.done = batch.done;
        let place = format!("{:020} {:020} {:020}\n", batch.segment, batch.done.bytes, batch.done.messages);
        // Where it cannot be written, a crash gives these messages twice.
        let written = self.cursor.seek(SeekFrom::Start(0)).and_then(|_| self.cursor.write_all(place.as_bytes()));
        if let Err(error) = written {
            tracing::debug!(%error, "the front of the spilled logs was not written");
        }
        if self.is_empty() {
            self.writer = None;
            while !self.segments.is_empty() {
                self.remove_first();
            }
        }
    }

    /// Removes the oldest segment; returns how many messages it still had.
    fn remove_first(&mut self) -> u64 {
        let Some(first) = self.segments.pop_front() else { return 0 };
        if let Err(error) = fs::remove_file(self.path(first.number)) {
            tracing::warn!(%error, "a segment of spilled logs was not removed");
        }
        let left = first.messages - self.done.messages.min(first.messages);
        self.done = Done::default();
        left
    }

    fn path(&self, number: u64) -> PathBuf {
        self.dir.join(format!("{number:020}.log"))
    }
}

fn encode(message: &Message, out: &mut Vec<u8>) {
    let start = out.len();
    out.extend([0; HEAD_BYTES as usize]);
    for part in [message.topic.as_bytes(), message.key.as_bytes()] {
        let length = u16::try_from(part.len()).unwrap_or(u16::MAX);
        out.extend(length.to_le_bytes());
        out.extend(&part[..usize::from(length)]);
    }
    out.extend(&message.payload);
    let body = &out[start + HEAD_BYTES as usize..];
    let (length, crc) = (u32::try_from(body.len()).unwrap_or(u32::MAX), crc32fast::hash(body));
    out[start..start + 4].copy_from_slice(&length.to_le_bytes());
    out[start + 4..start + 8].copy_from_slice(&crc.to_le_bytes());
}

/// One message and the bytes that it takes; nothing at the end, or where the rest is damaged.
fn read_one(reader: &mut impl io::Read) -> io::Result<Option<(Message, u64)>> {
    let mut head = [0; HEAD_BYTES as usize];
    if let Err(error) = reader.read_exact(&mut head) {
        return if error.kind() == io::ErrorKind::UnexpectedEof { Ok(None) } else { Err(error) };
    }
    let number = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
    let (length, crc) = (number(0), number(4));
    if length > MESSAGE_BYTES_MAX {
        return Ok(None);
    }
    let mut body = Vec::new();
    reader.take(u64::from(length)).read_to_end(&mut body)?;
    if body.len() as u64 != u64::from(length) || crc32fast::hash(&body) != crc {
        return Ok(None);
    }
    Ok(decode(&body).map(|message| (message, HEAD_BYTES + u64::from(length))))
}

fn decode(mut body: &[u8]) -> Option<Message> {
    let mut part = || {
        let (length, rest) = body.split_first_chunk::<2>()?;
        let (text, rest) = rest.split_at_checked(usize::from(u16::from_le_bytes(*length)))?;
        body = rest;
        Some(String::from_utf8_lossy(text).into_owned())
    };
    let (topic, key) = (part()?, part()?);
    Some(Message { topic: topic.into(), key, payload: body.to_vec() })
}

/// Counts the whole messages of a segment and cuts off what follows them.
fn recover(path: &Path) -> io::Result<Done> {
    let mut found = Done::default();
    let mut reader = io::BufReader::new(File::open(path)?);
    while let Some((_, length)) = read_one(&mut reader)? {
        found.bytes += length;
        found.messages += 1;
    }
    OpenOptions::new().write(true).open(path)?.set_len(found.bytes)?;
    Ok(found)
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(n: u32) -> Message {
        Message { topic: "t".into(), key: format!("k{n}"), payload: vec![b'x'; 100 + n as usize % 7] }
    }

    fn keys(spill: &mut Spill) -> Vec<String> {
        let mut keys = Vec::new();
        while let Some(batch) = spill.peek(250).unwrap() {
            keys.extend(batch.messages.iter().map(|m| m.key.clone()));
            spill.finish(&batch);
        }
        keys
    }

    #[test]
    fn what_cannot_be_written_costs_nothing_that_is_there() {
        let home = tempfile::tempdir().unwrap();
        let (dir, away) = (home.path().join("spill"), home.path().join("away"));
        // Each message fills a segment, so that the next one needs a file.
        let mut spill = Spill::open(&dir, 1_600).unwrap();
        (0..8).for_each(|n| assert!(matches!(spill.append(&[message(n)], false), (0, Ok(())))));
        std::fs::rename(&dir, &away).unwrap();
        assert!(matches!(spill.append(&[message(8)], false), (0, Err(SpillError::Io { .. }))));
        std::fs::rename(&away, &dir).unwrap();
        spill.append(&[message(9)], false).1.unwrap();
        assert_eq!(keys(&mut spill), ["k0", "k1", "k2", "k3", "k4", "k5", "k6", "k7", "k9"]);
    }

    #[test]
    fn what_goes_in_comes_out_in_order_also_by_another_process() {
        let dir = tempfile::tempdir().unwrap();
        let mut spill = Spill::open(dir.path(), 1 << 20).unwrap();
        assert!(matches!(Spill::open(dir.path(), 1 << 20), Err(SpillError::InUse(_))));
        for n in 0..20 {
            spill.append(&[message(n)], n % 2 == 0).1.unwrap();
        }
        let batch = spill.peek(250).unwrap().unwrap();
        let first = batch.messages.len();
        spill.finish(&batch);
        // Read and not acknowledged: it comes again.
        assert_eq!(spill.peek(250).unwrap().unwrap().messages[0].key, format!("k{first}"));
        drop(spill);
        let mut spill = Spill::open(dir.path(), 1 << 20).unwrap();
        assert_eq!(spill.messages(), 20 - first as u64);
        spill.append(&[message(20)], false).1.unwrap();
        let expected: Vec<String> = (first..21).map(|n| format!("k{n}")).collect();
        assert_eq!(keys(&mut spill), expected);
        assert!(spill.is_empty());
        spill.append(&[message(21)], false).1.unwrap();
        assert_eq!(keys(&mut spill), ["k21"]);
    }

    #[test]
    fn a_second_outage_and_a_restart_lose_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let mut spill = Spill::open(dir.path(), 1 << 20).unwrap();
        (0..9).for_each(|n| assert!(matches!(spill.append(&[message(n)], false), (0, Ok(())))));
        assert_eq!(keys(&mut spill).len(), 9);
        (9..14).for_each(|n| assert!(matches!(spill.append(&[message(n)], false), (0, Ok(())))));
        drop(spill);
        let mut spill = Spill::open(dir.path(), 1 << 20).unwrap();
        assert_eq!(spill.messages(), 5);
        assert_eq!(keys(&mut spill), ["k9", "k10", "k11", "k12", "k13"]);
        drop(spill);
        let mut spill = Spill::open(dir.path(), 1 << 20).unwrap();
        spill.append(&[message(14)], false).1.unwrap();
        assert_eq!(keys(&mut spill), ["k14"]);
    }

    #[test]
    fn damage_on_the_disk_costs_its_segment_counted_and_stops_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let mut spill = Spill::open(dir.path(), 4096).unwrap();
        (0..12).for_each(|n| assert!(matches!(spill.append(&[message(n)], false), (0, Ok(())))));
        let path = spill.path(1);
        let mut bytes = fs::read(&path).unwrap();
        bytes[20] ^= 1;
        fs::write(&path, bytes).unwrap();
        let left = keys(&mut spill);
        let damaged = spill.take_damaged();
        assert!(damaged > 0 && left.len() as u64 + damaged == 12, "{damaged} damaged, left {left:?}");
        assert_eq!(left.last().map(String::as_str), Some("k11"));
        spill.append(&[message(12)], false).1.unwrap();
        assert_eq!(keys(&mut spill), ["k12"]);
    }

    #[test]
    fn a_torn_end_is_cut_off_and_a_full_queue_loses_its_oldest() {
        let dir = tempfile::tempdir().unwrap();
        let mut spill = Spill::open(dir.path(), 1 << 20).unwrap();
        spill.append(&[message(0), message(1)], false).1.unwrap();
        let path = spill.path(1);
        drop(spill);
        let length = fs::metadata(&path).unwrap().len();
        OpenOptions::new().write(true).open(&path).unwrap().set_len(length - 3).unwrap();
        let mut spill = Spill::open(dir.path(), 4096).unwrap();
        assert_eq!(spill.messages(), 1);
        let lost: u64 = (2..100).map(|n| spill.append(&[message(n)], false).0).sum();
        assert!(spill.bytes() <= 4096 && lost > 50, "{} bytes, {lost} lost", spill.bytes());
        let left = keys(&mut spill);
        assert_eq!(left.len() as u64 + lost, 99);
        let newest: Vec<String> = (100 - left.len()..100).map(|n| format!("k{n}")).collect();
        assert_eq!(left, newest);
    }
}
