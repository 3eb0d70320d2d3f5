//! What every implementation of [`Transmit`] has to do, checked byte by byte by a receiving socket.

use std::{net::UdpSocket, time::Duration};

use super::*;
use crate::{au::AuView, payload::PacketPlan, payload::PayloadSize};
use shm_protocol::frame::Codec;

/// A socket on the loopback that can hold what a test sends.
pub fn receiver() -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    prepare(&socket);
    socket
}

/// Sets buffer and patience of a receiving socket.
pub fn prepare(socket: &UdpSocket) {
    socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    nix::sys::socket::setsockopt(socket, nix::sys::socket::sockopt::RcvBuf, &(4 << 20)).unwrap();
}

/// Sends packets of these sizes (RTP header included), each a null access unit of its own bytes; returns what the
/// receiver has to get.
pub fn send(transmit: &mut dyn Transmit, sizes: &[usize]) -> Vec<Vec<u8>> {
    let mut expected = Vec::new();
    for (round, sizes) in sizes.chunks(MAX_BATCH_PACKETS).enumerate() {
        // One access unit whose packets are cut freely: plans of single ranges.
        let total: usize = sizes.iter().map(|s| s - 12).sum();
        let bytes: Vec<u8> = (0..total).map(|i| (i * 7 + i / 251 + round) as u8).collect();
        let au = AuView::of(&bytes);
        let mut buffer = BatchBuffer::new();
        let mut batch = buffer.batch(au);
        let mut at = 0;
        for (index, size) in sizes.iter().enumerate() {
            let header = [0x80, round as u8, index as u8, 3, 4, 5, 6, 7, 8, 9, 10, 11];
            let len = size - 12;
            let piece = crate::payload::test_piece(at as u32, len as u32);
            let packet = crate::payload::PlannedPacket { pieces: &[piece], payload_bytes: len as u32, marker: false };
            assert!(batch.push(&header, &packet));
            expected.push([&header[..], &bytes[at..at + len]].concat());
            at += len;
        }
        finish(transmit, &mut batch);
    }
    expected
}

fn finish(transmit: &mut dyn Transmit, batch: &mut Batch<'_, '_>) {
    while !batch.is_empty() {
        let outcome = transmit.send(batch);
        assert!(outcome.packets > 0 || outcome.blocked, "neither progress nor a reason");
        batch.advance(outcome.packets);
        if outcome.blocked {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

fn receive(receiver: &UdpSocket, expected: &[Vec<u8>]) {
    let mut buffer = vec![0u8; 65_536];
    for (index, packet) in expected.iter().enumerate() {
        let len = receiver.recv(&mut buffer).unwrap_or_else(|e| panic!("packet {index} of {}: {e}", expected.len()));
        assert!(&buffer[..len] == packet.as_slice(), "packet {index} differs ({len} bytes for {})", packet.len());
    }
}

/// Sends packets of these sizes and checks that exactly these bytes arrive, in order.
pub fn send_and_check(transmit: &mut dyn Transmit, receiver: &UdpSocket, sizes: &[usize]) {
    let before = transmit.stats();
    let expected = send(transmit, sizes);
    receive(receiver, &expected);
    let stats = transmit.stats();
    assert_eq!(stats.packets - before.packets, sizes.len() as u64);
    assert_eq!(stats.bytes - before.bytes, sizes.iter().sum::<usize>() as u64);
    assert_eq!(stats.drops, before.drops);
}

/// The whole suite; `make` opens an implementation and the socket its packets arrive at.
pub fn run(mut make: impl FnMut() -> (Box<dyn Transmit>, UdpSocket)) {
    let cases: [&[usize]; 10] = [
        &[212],                                      // one
        &[1212; 10],                                 // a run of equal sizes
        &[[1212; 10].as_slice(), &[13]].concat(),    // the last one shorter
        &[[100; 3].as_slice(), &[1212; 3]].concat(), // growing sizes
        &[1212, 400, 1212, 400, 1212],               // a shorter one in the middle ends a run
        &[1012; 64],                                 // a full batch
        &[212; 200],                                 // several batches
        &[1212; 64],                                 // more bytes than one datagram
        &[65_507],                                   // the largest datagram
        &[30_000, 30_000, 30_000],                   // few, but beyond one datagram together
    ];
    for sizes in cases {
        let (mut transmit, receiver) = make();
        send_and_check(transmit.as_mut(), &receiver, sizes);
    }
    aggregated_and_fragmented(make());
}

/// Real plans: a packet of several pieces, and fragments with prefixes.
fn aggregated_and_fragmented((mut transmit, receiver): (Box<dyn Transmit>, UdpSocket)) {
    let mut bytes = vec![0, 0, 0, 1, 0x67, 1, 2, 0, 0, 0, 1, 0x68, 3, 0, 0, 0, 1, 0x65];
    bytes.extend((0..20_000u32).map(|i| (i % 251) as u8 | 1));
    let au = AuView::of(&bytes);
    let mut plan = PacketPlan::new();
    plan.make(&au, Codec::H264, PayloadSize::DEFAULT).unwrap();
    let mut buffer = BatchBuffer::new();
    let mut batch = buffer.batch(au);
    let mut expected = Vec::new();
    for (index, packet) in plan.packets_from(0).enumerate() {
        let header = [index as u8; 12];
        assert!(batch.push(&header, &packet));
        let mut whole = header.to_vec();
        for piece in packet.pieces {
            whole.extend_from_slice(piece.prefix());
            whole.extend_from_slice(&bytes[piece.offset as usize..(piece.offset + piece.len) as usize]);
        }
        expected.push(whole);
    }
    finish(transmit.as_mut(), &mut batch);
    receive(&receiver, &expected);
}
