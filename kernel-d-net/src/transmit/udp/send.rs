//! The system calls that send a batch.
#![expect(unsafe_code, reason = "sendmmsg straight out of shared memory: gather lists of raw pointers")]

use std::{io, os::fd::AsRawFd};

use crate::{
    payload::MAX_UDP_BYTES,
    transmit::{Batch, MAX_BATCH_PACKETS, Outcome, batch::Part},
};

use super::{SendPath, UdpTransmit};

/// Segments of one send at the most (UDP_MAX_SEGMENTS of Linux before 6.9; later ones allow more).
const MAX_SEGMENTS: usize = 64;
/// Entries of one gather list at the most (UIO_MAXIOV).
const MAX_GATHER: usize = 1024;
/// Attempts for one message while the socket reports earlier packets' ICMP errors: each report uses up one call
/// without sending, and two can be pending.
const REFUSED_ATTEMPTS: u32 = 3;
/// Room for one control message with a 16-bit segment size: CMSG_SPACE(2) is 24 bytes.
const CONTROL_WORDS: usize = 3;

/// Memory of the calls, reused.
#[derive(Debug)]
pub(super) struct Scratch {
    gather: Vec<libc::iovec>,
    messages: Vec<libc::mmsghdr>,
    controls: Vec<[u64; CONTROL_WORDS]>,
    runs: Vec<Run>,
}

// SAFETY: the pointers inside are written and read within one call of `send_connected`, on whichever thread that is.
unsafe impl Send for Scratch {}

/// Packets that one message carries.
#[derive(Debug, Clone, Copy)]
struct Run {
    packets: usize,
    bytes: usize,
    first_gather: usize,
    gather: usize,
    /// Bytes of each packet but the last, when the kernel has to cut.
    segment_bytes: Option<u16>,
}

/// What a failed call means.
enum Failure {
    Again,
    Blocked,
    Refused,
    PathUnsupported,
    Unreachable,
    Packet,
}

fn classify(errno: i32) -> Failure {
    match errno {
        libc::EINTR => Failure::Again,
        libc::EAGAIN | libc::ENOBUFS | libc::ENOMEM => Failure::Blocked,
        libc::ECONNREFUSED => Failure::Refused,
        libc::EINVAL | libc::EIO | libc::EOPNOTSUPP | libc::ENOPROTOOPT | libc::EMSGSIZE | libc::ENOSYS => {
            Failure::PathUnsupported
        }
        libc::ENETUNREACH
        | libc::EHOSTUNREACH
        | libc::ENETDOWN
        | libc::EHOSTDOWN
        | libc::EPERM
        | libc::EACCES
        | libc::EADDRNOTAVAIL
        | libc::ENOTCONN
        | libc::EDESTADDRREQ => Failure::Unreachable,
        _ => Failure::Packet,
    }
}

impl Scratch {
    pub(super) fn new() -> Scratch {
        Scratch {
            gather: Vec::with_capacity(MAX_BATCH_PACKETS * 4),
            messages: Vec::with_capacity(MAX_BATCH_PACKETS),
            controls: Vec::with_capacity(MAX_BATCH_PACKETS),
            runs: Vec::with_capacity(MAX_BATCH_PACKETS),
        }
    }

    /// Lays out the packets of `batch` from `first` on as messages.
    fn fill(&mut self, batch: &Batch<'_, '_>, first: usize, path: SendPath) {
        self.gather.clear();
        self.runs.clear();
        let mut index = first;
        while index < batch.len() {
            let limit = match path {
                SendPath::Gso => run_length(batch, index),
                SendPath::SendMmsg | SendPath::Send => 1,
            };
            let first_gather = self.gather.len();
            let mut bytes = 0;
            for packet in index..index + limit {
                bytes += batch.packet_bytes(packet);
                self.gather.extend(batch.parts(packet).iter().map(|part| match *part {
                    Part::Own { index, len } => {
                        let own = batch.own(index, len);
                        libc::iovec { iov_base: own.as_ptr().cast_mut().cast(), iov_len: own.len() }
                    }
                    Part::Au { ptr, len } => libc::iovec { iov_base: ptr.cast_mut().cast(), iov_len: len },
                }));
            }
            let segment_bytes = (limit > 1).then(|| batch.packet_bytes(index) as u16); // below MAX_UDP_BYTES
            let gather = self.gather.len() - first_gather;
            self.runs.push(Run { packets: limit, bytes, first_gather, gather, segment_bytes });
            index += limit;
        }
        self.point();
    }

    /// Makes the message headers, once nothing moves any more.
    fn point(&mut self) {
        self.messages.clear();
        self.controls.clear();
        self.controls.resize(self.runs.len(), [0; CONTROL_WORDS]);
        let gather = self.gather.as_mut_ptr();
        let controls = self.controls.as_mut_ptr();
        for (index, run) in self.runs.iter().enumerate() {
            // SAFETY: mmsghdr is plain data for which all zeros is a valid value (null pointers, zero lengths).
            let mut message: libc::mmsghdr = unsafe { std::mem::zeroed() };
            message.msg_hdr.msg_iov = gather.wrapping_add(run.first_gather);
            message.msg_hdr.msg_iovlen = run.gather;
            if let Some(segment_bytes) = run.segment_bytes {
                let header = &mut message.msg_hdr;
                header.msg_control = controls.wrapping_add(index).cast();
                header.msg_controllen = CONTROL_WORDS * size_of::<u64>();
                // SAFETY: msg_control points to 24 writable bytes, 8-aligned, of `controls` (which has an element per
                // run and is not touched again before the call); CMSG_FIRSTHDR then gives its start, and a header
                // with 2 bytes of data takes CMSG_SPACE(2) = 24 bytes of it.
                unsafe {
                    let control = libc::CMSG_FIRSTHDR(header);
                    (*control).cmsg_level = libc::SOL_UDP;
                    (*control).cmsg_type = libc::UDP_SEGMENT;
                    (*control).cmsg_len = libc::CMSG_LEN(size_of::<u16>() as u32) as usize;
                    libc::CMSG_DATA(control).cast::<u16>().write_unaligned(segment_bytes);
                }
            }
            self.messages.push(message);
        }
    }
}

/// How many packets from `index` on fit one segmented send: equal sizes, the last one may be shorter.
fn run_length(batch: &Batch<'_, '_>, index: usize) -> usize {
    let size = batch.packet_bytes(index);
    let (mut bytes, mut gather, mut count) = (0, 0, 0);
    while index + count < batch.len() && count < MAX_SEGMENTS {
        let next = batch.packet_bytes(index + count);
        bytes += next;
        gather += batch.parts(index + count).len();
        let fits = next <= size && bytes <= MAX_UDP_BYTES as usize && gather <= MAX_GATHER;
        if count > 0 && !fits {
            break;
        }
        count += 1;
        if next < size {
            break;
        }
    }
    count
}

impl UdpTransmit {
    /// Sends over the connected socket.
    pub(super) fn send_connected(&mut self, batch: &Batch<'_, '_>) -> Outcome {
        let mut done = 0;
        while done < batch.len() {
            self.scratch.fill(batch, done, self.path);
            let packets = self.scratch.runs.iter().map(|run| run.packets);
            let noted = self.outbox.as_mut().map(|outbox| outbox.lay_out(&self.scratch.messages, packets, done));
            match self.send_messages(noted) {
                Ok(packets) => done += packets,
                Err(Some(packets)) => {
                    self.stats.drops += packets as u64;
                    done += packets;
                }
                Err(None) => {
                    self.stats.blocked += 1;
                    return Outcome { packets: done, blocked: true };
                }
            }
        }
        Outcome { packets: done, blocked: false }
    }

    /// Sends as many messages of the scratch memory as go: `Ok(packets)` sent (0: lay out again for another path),
    /// `Err(Some(packets))` to drop, `Err(None)` when it has to wait.
    /// `noted`: where the same messages lie in the outbox.
    fn send_messages(&mut self, noted: Option<*mut libc::mmsghdr>) -> Result<usize, Option<usize>> {
        let mut sent_runs = 0;
        let mut sent_packets = 0;
        let mut refused = 0;
        while sent_runs < self.scratch.runs.len() {
            let run = self.scratch.runs[sent_runs];
            match self.call(sent_runs, noted) {
                Ok(messages) => {
                    for run in &self.scratch.runs[sent_runs..sent_runs + messages] {
                        sent_packets += run.packets;
                        self.stats.packets += run.packets as u64;
                        self.stats.bytes += run.bytes as u64;
                    }
                    sent_runs += messages;
                    refused = 0;
                    self.note_sent();
                }
                // What went out is reported first; the failure comes up again with the rest.
                Err(_) if sent_packets > 0 => break,
                Err(error) => match classify(error.raw_os_error().unwrap_or(0)) {
                    Failure::Again => {}
                    Failure::Blocked => return Err(None),
                    Failure::Refused => {
                        self.stats.refused += 1;
                        refused += 1;
                        if refused >= REFUSED_ATTEMPTS {
                            return Err(Some(run.packets));
                        }
                    }
                    Failure::PathUnsupported if run.segment_bytes.is_some() => {
                        self.fall_back(SendPath::SendMmsg, &error);
                        return Ok(0);
                    }
                    Failure::PathUnsupported
                        if self.path != SendPath::Send && error.raw_os_error() == Some(libc::ENOSYS) =>
                    {
                        self.fall_back(SendPath::Send, &error);
                        return Ok(0);
                    }
                    Failure::Unreachable => {
                        self.note_unreachable(&error);
                        return Err(Some(run.packets));
                    }
                    Failure::PathUnsupported | Failure::Packet => return Err(Some(run.packets)),
                },
            }
        }
        Ok(sent_packets)
    }

    /// One system call from message `first` on; how many messages it took.
    fn call(&mut self, first: usize, noted: Option<*mut libc::mmsghdr>) -> io::Result<usize> {
        self.stats.syscalls += 1;
        let fd = self.socket.as_raw_fd();
        let messages = &mut self.scratch.messages[first..];
        let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
        if self.path == SendPath::Send {
            // SAFETY: the header points into `gather` and at bytes that live as long as the batch (own headers in its
            // buffer, access unit by AuView's contract); the kernel only reads them. Should another process write the
            // access unit meanwhile, the kernel copies either value.
            let result = unsafe { libc::sendmsg(fd, &raw const messages[0].msg_hdr, flags) };
            return if result < 0 { Err(io::Error::last_os_error()) } else { Ok(1) };
        }
        let count = messages.len();
        // The outbox has room for a batch's packets, and there are no more messages than these.
        let messages = noted.map_or(messages.as_mut_ptr(), |noted| noted.wrapping_add(first));
        // SAFETY: as above, for each of the `count` headers, of which `noted` points at copies in mapped memory; the
        // kernel writes only their msg_len fields.
        let result = unsafe { libc::sendmmsg(fd, messages, count as u32, flags) };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as usize) }
    }
}
