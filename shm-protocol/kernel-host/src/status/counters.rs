//! The counters of the telemetry pages by name.

use shm_protocol::telemetry::Counter;

/// Each counter and what the status calls it.
pub(super) const COUNTERS: &[(Counter, &str)] = &[
    // Bytes of access units made or sent.
    (Counter::Bytes, "bytes"),
    // Packets sent.
    (Counter::Packets, "packets"),
    // System calls that sent packets.
    (Counter::SendCalls, "send_calls"),
    // Packet indices given up after a restart.
    (Counter::BurnedPackets, "burned_packets"),
    // Packets the system would not take.
    (Counter::PacketsDropped, "packets_dropped"),
    // Browser viewers.
    (Counter::Viewers, "viewers"),
    // Access units that a slow viewer missed.
    (Counter::ViewerDrops, "viewer_drops"),
    // IDR pictures made.
    (Counter::Idrs, "idrs"),
    // IDR pictures asked for by viewers.
    (Counter::IdrRequests, "idr_requests"),
    // Pixel bytes copied by the kernel's own code.
    (Counter::CopiedBytes, "copied_bytes"),
    // Frames passed by reference.
    (Counter::ByReference, "by_reference"),
    // Frames left out on purpose.
    (Counter::Tombstones, "tombstones"),
    // Target bitrate in kbit/s.
    (Counter::TargetKbps, "target_kbps"),
    // Bitrate of the last second in kbit/s.
    (Counter::Kbps, "kbps"),
    // RTCP receiver reports heard.
    (Counter::ReceiverReports, "receiver_reports"),
    // Fraction lost by the last receiver report in 1/256.
    (Counter::FractionLost, "fraction_lost_256"),
    // Round-trip time by the last receiver report in microseconds.
    (Counter::RoundTripUs, "round_trip_us"),
    // Bytes of pools mapped.
    (Counter::PoolBytes, "pool_bytes"),
    // Frames that wait before the kernel.
    (Counter::Backlog, "backlog"),
    // CLOCK_MONOTONIC of the first frame on the wire in ns.
    (Counter::FirstOnWireNs, "first_on_wire_ns"),
    // Source frames not captured because no slot was free.
    (Counter::CaptureMissed, "capture_missed"),
];
