use super::*;
use crate::transmit::conformance;

fn pair(path: SendPath) -> (UdpTransmit, UdpSocket) {
    let receiver = conformance::receiver();
    let config = UdpConfig { path, ..UdpConfig::to(receiver.local_addr().unwrap()) };
    (open_pair(&config).unwrap().0, receiver)
}

#[test]
fn every_path_conforms() {
    for path in [SendPath::Gso, SendPath::SendMmsg, SendPath::Send] {
        conformance::run(|| {
            let (transmit, receiver) = pair(path);
            (Box::new(transmit), receiver)
        });
    }
}

#[test]
fn system_calls_per_batch() {
    // 64 packets in one batch: two runs when the sizes differ twice, still one call.
    for (path, calls) in [(SendPath::Gso, 1), (SendPath::SendMmsg, 1), (SendPath::Send, 20)] {
        let (mut transmit, receiver) = pair(path);
        let sizes = [[700; 9].as_slice(), &[300], &[200; 10]].concat();
        conformance::send_and_check(&mut transmit, &receiver, &sizes);
        let stats = transmit.stats();
        assert_eq!((stats.syscalls, stats.packets, stats.drops), (calls, 20, 0), "{path:?}");
        assert_eq!(transmit.path(), path_name(path), "no fall-back");
    }
}

#[test]
fn a_refused_segmented_send_falls_back_and_loses_nothing() {
    // Linux refuses to segment (EINVAL) what goes out without check sums.
    let (mut transmit, receiver) = pair(SendPath::Gso);
    options::set_int(transmit.socket.as_fd(), libc::SOL_SOCKET, libc::SO_NO_CHECK, 1, "SO_NO_CHECK").unwrap();
    conformance::send_and_check(&mut transmit, &receiver, &[700; 20]);
    assert_eq!(transmit.path(), "sendmmsg");
    assert_eq!(transmit.stats().syscalls, 2, "the refused one and the one that went");
}

#[test]
fn nobody_listening_is_counted_and_nothing_is_dropped() {
    let (mut transmit, receiver) = pair(SendPath::Gso);
    let address = receiver.local_addr().unwrap();
    drop(receiver);
    for _ in 0..5 {
        conformance::send(&mut transmit, &[500; 10]);
    }
    let stats = transmit.stats();
    assert_eq!((stats.packets, stats.drops), (50, 0));
    assert!(stats.refused >= 1, "{stats:?}");
    let receiver = UdpSocket::bind(address).unwrap();
    conformance::prepare(&receiver);
    conformance::send_and_check(&mut transmit, &receiver, &[500; 10]);
}

#[test]
fn an_unreachable_destination_drops_and_the_stream_goes_on() {
    let config = UdpConfig::to("255.255.255.255:5004".parse().unwrap()); // broadcast without SO_BROADCAST: EACCES
    let (mut transmit, _rtcp) = open_pair(&config).unwrap();
    conformance::send(&mut transmit, &[500; 10]);
    let stats = transmit.stats();
    assert_eq!((stats.packets, stats.drops, stats.unreachable), (0, 10, 1));
    let receiver = conformance::receiver();
    transmit.set_destination(receiver.local_addr().unwrap()).unwrap();
    conformance::send_and_check(&mut transmit, &receiver, &[500; 10]);
    assert_eq!(transmit.stats().drops, 10);
}

#[test]
fn ports_come_in_pairs_and_are_bound_again_by_a_successor() {
    let to = UdpConfig::to("127.0.0.1:5004".parse().unwrap());
    let (rtp, rtcp) = open_pair(&to).unwrap();
    assert_eq!((rtp.port() % 2, rtcp.port()), (0, rtp.port() + 1));
    let again = UdpConfig { source_ports: Some((rtp.port(), rtcp.port())), ..to };
    let holder = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(30));
        drop((rtp, rtcp));
    });
    let (successor, _rtcp) = open_pair(&again).unwrap();
    holder.join().unwrap();
    assert_eq!(Some(successor.port()), again.source_ports.map(|p| p.0));
}

#[test]
fn a_change_of_destination_keeps_the_port_and_drops_the_old_source_address() {
    let (mut transmit, old) = pair(SendPath::Gso);
    conformance::send_and_check(&mut transmit, &old, &[500; 10]);
    assert_eq!(transmit.socket.local_addr().unwrap(), ([127, 0, 0, 1], transmit.port()).into());
    let new = conformance::receiver();
    transmit.set_destination(new.local_addr().unwrap()).unwrap();
    assert_eq!(transmit.socket.local_addr().unwrap(), ([0, 0, 0, 0], transmit.port()).into());
    conformance::send_and_check(&mut transmit, &new, &[500; 10]);
    let other_family = transmit.set_destination("[::1]:5004".parse().unwrap());
    assert!(matches!(other_family, Err(TransmitError::AddressFamily { .. })));
    conformance::send_and_check(&mut transmit, &new, &[500; 10]);
}

#[test]
fn a_port_that_stays_taken_is_an_error_naming_it() {
    let taken = UdpSocket::bind("0.0.0.0:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let config = UdpConfig { source_ports: Some((port, port ^ 1)), ..UdpConfig::to("127.0.0.1:5004".parse().unwrap()) };
    let error = open_pair(&config).unwrap_err();
    assert!(error.to_string().contains(&port.to_string()), "{error}");
}

#[test]
fn options_arrive_at_the_socket() {
    let base = UdpConfig::to("239.1.2.3:5004".parse().unwrap());
    let config = UdpConfig { ttl: Some(9), interface: Some("lo".into()), dscp: 34, ..base.clone() };
    let (transmit, _) = open_pair(&config).unwrap();
    assert_eq!(transmit.socket.multicast_ttl_v4().unwrap(), 9);
    let tos = nix::sys::socket::getsockopt(&transmit.socket, nix::sys::socket::sockopt::Ipv4Tos).unwrap();
    let priority = nix::sys::socket::getsockopt(&transmit.socket, nix::sys::socket::sockopt::Priority).unwrap();
    assert_eq!((tos, priority), (34 << 2, 4));
    let no_interface = UdpConfig { interface: Some("nosuch0".into()), ..base.clone() };
    assert!(matches!(open_pair(&no_interface), Err(TransmitError::Interface(_))));
    let bad_dscp = UdpConfig { dscp: 64, ..base };
    assert!(matches!(open_pair(&bad_dscp), Err(TransmitError::Setting { value: 64, .. })));
}

#[test]
fn ipv6_conforms_where_the_machine_has_it() {
    let Ok(receiver) = UdpSocket::bind("[::1]:0") else {
        println!("skipped: this machine has no IPv6 loopback");
        return;
    };
    conformance::prepare(&receiver);
    let (mut transmit, _) = open_pair(&UdpConfig::to(receiver.local_addr().unwrap())).unwrap();
    conformance::send_and_check(&mut transmit, &receiver, &[500; 10]);
}
