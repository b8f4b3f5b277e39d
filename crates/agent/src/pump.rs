//! Reads everything one process says: frames of the shim, lines on stdout and stderr, and its exit. One task per process.
//! It decides nothing; what it read goes to the runner in the order that matters: the output a task wrote before it
//! was done comes before its end, because the pipes are emptied before a result is passed on.

use std::os::fd::AsFd;
use std::process::ExitStatus;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf, pipe};
use tokio::sync::mpsc;

use crate::process::Running;
use crate::shim::{self, FromShim};

/// A longer line is cut into pieces.
pub(crate) const MAX_LINE: usize = 64 << 10;
/// Items handed over at once.
const MAX_ITEMS: usize = 1024;
/// Read from a pipe before frames are looked at again; not less than the size of the pipe.
const HELPING: usize = crate::process::PIPE_BYTES;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stream {
    Stdout,
    Stderr,
}

impl Stream {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Stream::Stdout => "stdout",
            Stream::Stderr => "stderr",
        }
    }
}

#[derive(Debug)]
pub(crate) enum Item {
    Frame(FromShim),
    Line(Stream, String),
    /// The process closed its end, so that nothing more can come on this stream.
    Closed(Stream),
    /// The shim broke the protocol; the process has to go.
    Broken(String),
}

/// What the pump says to the runner about a process.
#[derive(Debug)]
pub(crate) enum Said {
    Items(Vec<Item>),
    Exited(Option<ExitStatus>),
}

/// Splits bytes into lines. Bytes that are not UTF-8 are shown as replacement characters.
#[derive(Default)]
pub(crate) struct Lines {
    rest: Vec<u8>,
}

impl Lines {
    pub(crate) fn push(&mut self, mut bytes: &[u8], mut emit: impl FnMut(String)) {
        while let Some(end) = bytes.iter().position(|b| *b == b'\n') {
            let (line, after) = bytes.split_at(end);
            self.rest.extend_from_slice(line);
            if self.rest.last() == Some(&b'\r') {
                self.rest.pop();
            }
            self.flush_long(&mut emit);
            emit(String::from_utf8_lossy(&self.rest).into_owned());
            self.rest.clear();
            bytes = &after[1..];
        }
        self.rest.extend_from_slice(bytes);
        self.flush_long(&mut emit);
    }

    fn flush_long(&mut self, emit: &mut impl FnMut(String)) {
        while self.rest.len() > MAX_LINE {
            let tail = self.rest.split_off(MAX_LINE);
            emit(String::from_utf8_lossy(&self.rest).into_owned());
            self.rest = tail;
        }
    }

    /// What stands after the last newline.
    pub(crate) fn finish(&mut self, emit: impl FnOnce(String)) {
        if !self.rest.is_empty() {
            emit(String::from_utf8_lossy(&std::mem::take(&mut self.rest)).into_owned());
        }
    }
}

struct Output {
    pipe: pipe::Receiver,
    stream: Stream,
    lines: Lines,
    open: bool,
}

impl Output {
    fn new(pipe: pipe::Receiver, stream: Stream) -> Self {
        Self { pipe, stream, lines: Lines::default(), open: true }
    }

    /// Takes what is there now, at most one helping, which is at least what the pipe can hold: whatever was written before
    /// this call is taken whole, and a child that never stops printing cannot hold the loop. The second read asks the
    /// descriptor itself, because the runtime's readiness may lag behind what the child has already written.
    /// Returns how many bytes it took.
    fn drain(&mut self, muted: bool, items: &mut Vec<Item>) -> usize {
        let mut buffer = [0u8; 32 << 10];
        let mut taken = 0;
        while self.open && taken < HELPING {
            let read = match self.pipe.try_read(&mut buffer) {
                Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {
                    rustix::io::read(self.pipe.as_fd(), &mut buffer).map_err(std::io::Error::from)
                }
                other => other,
            };
            match read {
                Ok(0) => {
                    self.open = false;
                    items.push(Item::Closed(self.stream));
                }
                Ok(n) => {
                    taken += n;
                    if !muted {
                        self.lines.push(&buffer[..n], |line| items.push(Item::Line(self.stream, line)));
                    }
                }
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => break,
                Err(_) => self.open = false,
            }
        }
        if muted {
            self.lines = Lines::default();
        }
        taken
    }

    fn finish(&mut self, items: &mut Vec<Item>) {
        let stream = self.stream;
        self.lines.finish(|line| items.push(Item::Line(stream, line)));
    }
}

/// The reading side of one process.
pub(crate) struct Pump {
    socket: Option<OwnedReadHalf>,
    buffer: BytesMut,
    outputs: [Output; 2],
    child: tokio::process::Child,
    /// Output is read and dropped while this is set, so that a child that prints without end never blocks.
    muted: Arc<AtomicBool>,
}

impl Pump {
    pub(crate) fn new(running: Running, socket: Option<OwnedReadHalf>, muted: Arc<AtomicBool>) -> Self {
        Self {
            socket,
            buffer: BytesMut::with_capacity(16 << 10),
            outputs: [Output::new(running.stdout, Stream::Stdout), Output::new(running.stderr, Stream::Stderr)],
            child: running.child,
            muted,
        }
    }

    /// Runs until the process has ended.
    pub(crate) async fn run<E>(mut self, events: mpsc::Sender<E>, wrap: impl Fn(Said) -> E) {
        let status = loop {
            let [out, err] = &mut self.outputs;
            let mut items = Vec::new();
            tokio::select! {
                read = read_socket(&mut self.socket, &mut self.buffer), if self.socket.is_some() => {
                    if read == 0 {
                        self.socket = None;
                    }
                }
                _ = out.pipe.readable(), if out.open => {}
                _ = err.pipe.readable(), if err.open => {}
                status = self.child.wait() => break status.ok(),
            }
            let printed = self.collect(&mut items);
            if !hand_over(&events, &wrap, items).await {
                return;
            }
            if printed > 0 {
                // A pipe that always has something more makes nothing here wait: without this, one child that prints
                // without end keeps a thread of the runtime, and what that thread was about to run next, heartbeats
                // included, does not run.
                tokio::task::yield_now().await;
            }
        };
        // What was written before the end is still in the pipes. Children that live on may hold them open, so this does
        // not wait for their end.
        if let Some(socket) = &self.socket {
            let mut chunk = [0u8; 32 << 10];
            while let Ok(n @ 1..) = rustix::io::read(socket.as_ref().as_fd(), &mut chunk) {
                self.buffer.extend_from_slice(&chunk[..n]);
            }
        }
        let mut items = Vec::new();
        self.collect(&mut items);
        self.outputs.iter_mut().for_each(|o| o.finish(&mut items));
        if hand_over(&events, &wrap, items).await {
            let _ = events.send(wrap(Said::Exited(status))).await;
        }
    }

    /// Takes what is there of frames and output, in the order that matters; returns the bytes of output.
    fn collect(&mut self, items: &mut Vec<Item>) -> usize {
        let mut frames = Vec::new();
        while frames.len() < MAX_ITEMS {
            match shim::take_frame(&mut self.buffer) {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => break,
                Err(error) => {
                    self.buffer.clear();
                    self.socket = None;
                    items.push(Item::Broken(error.to_string()));
                    break;
                }
            }
        }
        let ends = frames.iter().position(|f| matches!(f, FromShim::Done { .. })).unwrap_or(frames.len());
        let after = frames.split_off(ends);
        items.extend(frames.into_iter().map(Item::Frame));
        let muted = self.muted.load(Ordering::Relaxed);
        let mut printed = 0;
        for output in &mut self.outputs {
            printed += output.drain(muted, items);
            if !after.is_empty() {
                output.finish(items);
            }
        }
        items.extend(after.into_iter().map(Item::Frame));
        printed
    }
}

async fn read_socket(socket: &mut Option<OwnedReadHalf>, buffer: &mut BytesMut) -> usize {
    let Some(socket) = socket else { return std::future::pending().await };
    buffer.reserve(16 << 10);
    socket.read_buf(buffer).await.unwrap_or(0)
}

async fn hand_over<E>(events: &mpsc::Sender<E>, wrap: &impl Fn(Said) -> E, items: Vec<Item>) -> bool {
    items.is_empty() || events.send(wrap(Said::Items(items))).await.is_ok()
}

/// Splits the agent's end of the socket and starts its writer, which sends whatever is waiting in one write.
pub(crate) fn open_socket(
    socket: std::os::unix::net::UnixStream,
) -> std::io::Result<(OwnedReadHalf, mpsc::UnboundedSender<Bytes>)> {
    socket.set_nonblocking(true)?;
    let (read, write) = UnixStream::from_std(socket)?.into_split();
    // Unbounded, but what may be in it is bounded by the pipeline depth and by the shim's own open requests.
    let (sender, queue) = mpsc::unbounded_channel();
    tokio::spawn(write_frames(write, queue));
    Ok((read, sender))
}

async fn write_frames(mut socket: OwnedWriteHalf, mut queue: mpsc::UnboundedReceiver<Bytes>) {
    let mut batch = Vec::new();
    let mut joined = BytesMut::new();
    while queue.recv_many(&mut batch, 128).await > 0 {
        let result = if let [one] = &batch[..] {
            socket.write_all(one).await
        } else {
            joined.clear();
            batch.iter().for_each(|frame| joined.extend_from_slice(frame));
            socket.write_all(&joined).await
        };
        if result.is_err() {
            return;
        }
        batch.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_split_across_reads_and_long_ones_are_cut() {
        let mut lines = Lines::default();
        let mut seen = Vec::new();
        lines.push(b"on", |l| seen.push(l));
        lines.push(b"e\r\ntwo\n\nhal", |l| seen.push(l));
        lines.finish(|l| seen.push(l));
        assert_eq!(seen, ["one", "two", "", "hal"]);
        seen.clear();
        lines.push(&vec![b'x'; MAX_LINE * 2 + 10], |l| seen.push(l));
        lines.push(b"\n", |l| seen.push(l));
        assert_eq!(seen.iter().map(String::len).collect::<Vec<_>>(), [MAX_LINE, MAX_LINE, 10]);
    }
}
