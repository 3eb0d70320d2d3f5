use super::*;

/// Header fields, name and value.
type Fields = &'static [(&'static str, &'static str)];

const LOCAL: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

fn guard(token: Option<&str>) -> Guard {
    let listen = SocketAddr::from(([127, 0, 0, 1], 8080));
    Guard::new(listen, &["Studio.example".into(), "fd00::7".into()], token.map(String::from))
}

fn ask(guard: &Guard, target: &str, headers: &[(&str, &str)], local: IpAddr) -> Result<(), Refusal> {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        map.append(header::HeaderName::from_bytes(name.as_bytes()).unwrap(), value.parse().unwrap());
    }
    guard.check(&target.parse().unwrap(), &map, local)
}

#[test]
fn only_our_own_hosts_are_served() {
    let table = [
        ("localhost", Ok(())),
        ("LOCALHOST:9000", Ok(())),
        ("localhost.", Ok(())),
        ("127.0.0.1:8080", Ok(())),
        ("[::1]:8080", Ok(())),
        ("studio.EXAMPLE:8080", Ok(())),
        ("[fd00::7]", Ok(())),
        ("evil.example", Err(Refusal::Misdirected)),
        ("evil.example:8080", Err(Refusal::Misdirected)),
        ("127.0.0.1.evil.example", Err(Refusal::Misdirected)),
        ("localhost.evil.example", Err(Refusal::Misdirected)),
        ("xlocalhost", Err(Refusal::Misdirected)),
        ("192.0.2.1", Err(Refusal::Misdirected)),
        ("0.0.0.0:8080", Err(Refusal::Misdirected)),
        ("2130706433", Err(Refusal::Misdirected)),
        ("[::ffff:127.0.0.1]", Ok(())),
        ("", Err(Refusal::BadHost)),
        (":8080", Err(Refusal::BadHost)),
        ("localhost:", Err(Refusal::BadHost)),
        ("localhost:99999", Err(Refusal::BadHost)),
        ("localhost:+80", Err(Refusal::BadHost)),
        ("user@localhost", Err(Refusal::BadHost)),
        ("localhost/x", Err(Refusal::BadHost)),
        ("[::1", Err(Refusal::BadHost)),
        ("[localhost]", Err(Refusal::BadHost)),
        ("]localhost:8080", Err(Refusal::BadHost)),
        ("localhost]", Err(Refusal::BadHost)),
        ("[127.0.0.1]", Err(Refusal::BadHost)),
        ("[]", Err(Refusal::BadHost)),
    ];
    for (host, expected) in table {
        assert_eq!(ask(&guard(None), "/", &[("host", host)], LOCAL), expected, "Host: {host}");
    }
}

#[test]
fn host_must_be_there_once_and_agree_with_an_absolute_target() {
    let guard = guard(None);
    assert_eq!(ask(&guard, "/", &[], LOCAL), Err(Refusal::BadHost));
    let twice = [("host", "localhost"), ("host", "evil.example")];
    assert_eq!(ask(&guard, "/", &twice, LOCAL), Err(Refusal::BadHost));
    let host = [("host", "localhost:8080")];
    assert_eq!(ask(&guard, "http://evil.example/", &host, LOCAL), Err(Refusal::BadHost));
    assert_eq!(ask(&guard, "http://localhost:8080/", &host, LOCAL), Ok(()));
}

#[test]
fn a_wildcard_listener_serves_the_address_the_connection_came_in_on() {
    let guard = Guard::new(SocketAddr::from(([0, 0, 0, 0], 8080)), &[], None);
    let local = IpAddr::from([192, 0, 2, 7]);
    assert_eq!(ask(&guard, "/", &[("host", "192.0.2.7:8080")], local), Ok(()));
    assert_eq!(ask(&guard, "/", &[("host", "192.0.2.8:8080")], local), Err(Refusal::Misdirected));
    assert_eq!(ask(&guard, "/", &[("host", "0.0.0.0")], local), Err(Refusal::Misdirected));
}

#[test]
fn picture_and_numbers_go_only_to_our_own_origin() {
    let table: [(Fields, bool); 12] = [
        (&[], true),
        (&[("origin", "http://localhost:8080")], true),
        (&[("origin", "http://LOCALHOST:8080")], true),
        (&[("origin", "https://localhost:8080")], true),
        (&[("origin", "http://localhost:3000")], false),
        (&[("origin", "http://localhost")], false),
        (&[("origin", "http://evil.example")], false),
        (&[("origin", "http://localhost:8080.evil.example")], false),
        (&[("origin", "null")], false),
        (&[("origin", "file://localhost:8080")], false),
        (&[("sec-fetch-site", "cross-site")], false),
        (&[("sec-fetch-site", "same-origin"), ("origin", "http://localhost:8080")], true),
    ];
    for path in ["/ws", "/api/status", "/metrics", "/elsewhere"] {
        for (extra, allowed) in table {
            let headers: Vec<_> = [("host", "localhost:8080")].iter().chain(extra).copied().collect();
            let expected = if allowed { Ok(()) } else { Err(Refusal::ForeignOrigin) };
            assert_eq!(ask(&guard(None), path, &headers, LOCAL), expected, "{path} {extra:?}");
        }
    }
    let linked = [("host", "localhost:8080"), ("sec-fetch-site", "cross-site")];
    assert_eq!(ask(&guard(None), "/", &linked, LOCAL), Ok(()), "a link to the page works");
}

#[test]
fn a_default_port_equals_the_one_left_out() {
    let headers = [("host", "studio.example"), ("origin", "http://studio.example:80")];
    assert_eq!(ask(&guard(None), "/ws", &headers, LOCAL), Ok(()));
    let behind_tls = [("host", "studio.example"), ("origin", "https://studio.example")];
    assert_eq!(ask(&guard(None), "/ws", &behind_tls, LOCAL), Ok(()));
}

#[test]
fn the_token_is_taken_from_query_or_header() {
    let guard = guard(Some("s3cret & more"));
    let host = ("host", "localhost");
    let table: [(&str, Fields, bool); 10] = [
        ("/ws", &[], false),
        ("/", &[], false),
        ("/watch.js", &[], true),
        ("/ws?token=s3cret%20%26+more", &[], true),
        ("/ws?a=b&token=s3cret%20%26%20more", &[], true),
        ("/ws?token=s3cret", &[], false),
        ("/ws?token=", &[], false),
        ("/ws?token=%zz", &[], false),
        ("/metrics", &[("authorization", "bearer s3cret & more")], true),
        ("/metrics", &[("authorization", "Basic s3cret & more")], false),
    ];
    for (target, extra, allowed) in table {
        let headers: Vec<_> = [host].iter().chain(extra).copied().collect();
        let expected = if allowed { Ok(()) } else { Err(Refusal::Token) };
        assert_eq!(ask(&guard, target, &headers, LOCAL), expected, "{target} {extra:?}");
    }
}

#[test]
fn a_foreign_page_is_refused_even_with_the_token() {
    let headers = [("host", "localhost"), ("origin", "http://evil.example")];
    assert_eq!(ask(&guard(Some("t")), "/ws?token=t", &headers, LOCAL), Err(Refusal::ForeignOrigin));
}
