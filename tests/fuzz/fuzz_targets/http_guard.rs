//! Who may ask: Host, Origin, fetch metadata and token of a request.
//!
//! Feeds: a request target and header lines to the guard of the HTTP output.
//! Holds: no panic; whatever is let through has exactly one Host that is localhost, ours or allowed; a request for picture
//! or numbers with an Origin has ours; one for what needs the token has it, in the query or as bearer.
#![no_main]
#![allow(dead_code, reason = "the module is whole, a target uses its check")]

// The module is private to the output: it is compiled in by path.
#[path = "../../../kernel-d-net/src/outputs/http/guard.rs"]
#[rustfmt::skip] // It would look for the module of its tests beside this file.
mod guard;

use axum::http::{HeaderMap, HeaderName, HeaderValue, Uri, header};
use guard::{Guard, Need};
use quad_fuzz::Input;
use std::net::{IpAddr, SocketAddr};

const TOKEN: &str = "tok-3n";

/// Undoes %XX and +, wherever they stand.
fn decoded(text: &str) -> Vec<u8> {
    let bytes = text.as_bytes();
    let mut out = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let hex = bytes.get(at + 1..at + 3).and_then(|digits| std::str::from_utf8(digits).ok());
        match (bytes[at], hex.and_then(|digits| u8::from_str_radix(digits, 16).ok())) {
            (b'%', Some(byte)) => {
                out.push(byte);
                at += 2;
            }
            (byte, _) => out.push(if byte == b'+' { b' ' } else { byte }),
        }
        at += 1;
    }
    out
}

fn contains(bytes: &[u8], what: &str) -> bool {
    bytes.windows(what.len()).any(|window| window == what.as_bytes())
}

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let mut input = Input(data);
    let local: IpAddr =
        if input.u8() & 1 == 0 { [192, 168, 7, 9].into() } else { std::net::Ipv6Addr::LOCALHOST.into() };
    let listen = SocketAddr::from(([0, 0, 0, 0], 8080));
    let guard = Guard::new(listen, &["Quad.example.".to_owned()], Some(TOKEN.to_owned()));
    let Ok(uri) = Uri::try_from(input.until(b"\n")) else { return };
    let mut headers = HeaderMap::new();
    while !input.is_empty() {
        let mut line = Input(input.until(b"\n"));
        let name = line.until(b": ");
        if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name), HeaderValue::from_bytes(line.0)) {
            headers.append(name, value);
        }
    }
    if guard.check(&uri, &headers, local).is_err() {
        return;
    }
    let hosts: Vec<_> = headers.get_all(header::HOST).iter().collect();
    assert_eq!(hosts.len(), 1);
    let host = hosts[0].to_str().expect("a host is ASCII").to_ascii_lowercase();
    let ours = ["localhost", "127.0.0.1", "192.168.7.9", "[::", "::", "quad.example"];
    // Any way to write loopback or the local address is an address; a name must be one of ours.
    let known = ours.iter().any(|name| host.starts_with(name)) || host.contains("::") || host.contains("[0:");
    assert!(known || host.starts_with('['), "{host} is served");
    let need = Need::of(uri.path());
    if need == Need::TokenAndOrigin {
        for origin in headers.get_all(header::ORIGIN) {
            let origin = origin.to_str().expect("an origin is ASCII").to_ascii_lowercase();
            let name = host
                .rsplit_once(':')
                .filter(|(_, port)| port.bytes().all(|b| b.is_ascii_digit()))
                .map_or(&host[..], |(name, _)| name);
            assert!(origin.contains(name.trim_end_matches('.').trim_matches(['[', ']'])), "{origin} is not {host}");
        }
        let site = headers.get("sec-fetch-site").map(HeaderValue::as_bytes);
        assert!(matches!(site, None | Some(b"same-origin" | b"none")));
    }
    if need != Need::Nothing {
        let bearer = headers.get(header::AUTHORIZATION).is_some_and(|value| contains(value.as_bytes(), TOKEN));
        assert!(bearer || contains(&decoded(uri.query().unwrap_or("")), TOKEN), "let in without the token");
    }
});
