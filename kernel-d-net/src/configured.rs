//! What the configuration asks of the outputs, and what of it this build does not have.

use kernel_host::config::{Fec, Net, Transmit};
use kernel_host::exit::{Exit, Failure};

/// Refuses what is not there: a key that is accepted and changes nothing is a trap.
pub fn refuse_absent(net: &Net) -> Result<(), Failure> {
    let absent = [
        ("net.rdp", net.rdp.as_ref().is_some_and(|o| o.enabled)),
        ("net.srt", net.srt.as_ref().is_some_and(|o| o.enabled)),
        ("net.record", net.record.as_ref().is_some_and(|o| o.enabled)),
        ("net.transmit = \"dpdk\"", net.transmit == Transmit::Dpdk),
        ("net.interface", net.interface.is_some()),
        ("net.rtp.fec", net.rtp.as_ref().is_some_and(|o| o.enabled && o.fec != Fec::None)),
    ];
    match absent.iter().find(|(_, wanted)| *wanted) {
        Some((what, _)) => Err(Failure::new(
            Exit::Unavailable,
            format!("{what} is not in this build; it has net.rtp and net.http over transmit = \"udp\""),
        )),
        None => Ok(()),
    }
}

/// The encode instances whose access units are sent, each once.
pub fn inputs(net: &Net) -> Vec<String> {
    let rtp = net.rtp.as_ref().filter(|o| o.enabled).map(|o| o.encode_name().to_owned());
    let http = net.http.as_ref().filter(|o| o.enabled).map(|o| o.encode_name().to_owned());
    let mut names: Vec<String> = rtp.into_iter().chain(http).collect();
    names.dedup();
    names
}
