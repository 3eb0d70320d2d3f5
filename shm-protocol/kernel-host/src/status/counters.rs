//! The counters of the telemetry pages by name.

use shm_protocol::telemetry::Counter;

/// A counter as status and metrics name it.
pub(super) struct NamedCounter {
    pub(super) counter: Counter,
    pub(super) name: &'static str,
    /// Whether it only rises within an epoch.
    pub(super) rises: bool,
    pub(super) help: &'static str,
}

const fn rising(counter: Counter, name: &'static str, help: &'static str) -> NamedCounter {
    NamedCounter { counter, name, rises: true, help }
}

const fn gauge(counter: Counter, name: &'static str, help: &'static str) -> NamedCounter {
    NamedCounter { counter, name, rises: false, help }
}

pub(super) const COUNTERS: &[NamedCounter] = &[
    rising(Counter::Bytes, "bytes", "Bytes of access units made or sent"),
    rising(Counter::Packets, "packets", "Packets sent"),
    rising(Counter::SendCalls, "send_calls", "System calls that sent packets"),
    rising(Counter::BurnedPackets, "burned_packets", "Packet indices given up after a restart"),
    rising(Counter::PacketsDropped, "packets_dropped", "Packets the system would not take"),
    gauge(Counter::Viewers, "viewers", "Browser viewers"),
    rising(Counter::ViewerDrops, "viewer_drops", "Access units that a slow viewer missed"),
    rising(Counter::Idrs, "idrs", "IDR pictures made"),
    rising(Counter::IdrRequests, "idr_requests", "IDR pictures asked for by viewers"),
    rising(Counter::CopiedBytes, "copied_bytes", "Pixel bytes copied by the kernel's own code"),
    rising(Counter::ByReference, "by_reference", "Frames passed by reference"),
    rising(Counter::Tombstones, "tombstones", "Frames left out on purpose"),
    gauge(Counter::TargetKbps, "target_kbps", "Target bitrate in kbit/s"),
    gauge(Counter::Kbps, "kbps", "Bitrate of the last second in kbit/s"),
    rising(Counter::ReceiverReports, "receiver_reports", "RTCP receiver reports heard"),
    gauge(Counter::FractionLost, "fraction_lost_256", "Fraction lost by the last receiver report in 1/256"),
    gauge(Counter::RoundTripUs, "round_trip_us", "Round-trip time by the last receiver report in microseconds"),
    gauge(Counter::PoolBytes, "pool_bytes", "Bytes of pools mapped"),
    gauge(Counter::Backlog, "backlog", "Frames that wait before the kernel"),
    gauge(Counter::FirstOnWireNs, "first_on_wire_ns", "CLOCK_MONOTONIC of the first frame on the wire in ns"),
    rising(Counter::CaptureMissed, "capture_missed", "Source frames not captured because no slot was free"),
];
