//! Who may ask: Host, Origin and token.
//!
//! The output shows the user's screen, often on localhost, where every web page the user opens could reach it. A page
//! of another site is kept out by the Origin check; one that rebinds its own name to 127.0.0.1 by the Host check.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use axum::http::{HeaderMap, StatusCode, Uri, header};
use subtle::ConstantTimeEq as _;

/// Why a request is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    /// No Host, several, or one that is no host.
    BadHost,
    /// A Host that is not ours (RFC 9110, section 15.5.20).
    Misdirected,
    /// Asked by a page of another origin.
    ForeignOrigin,
    /// The token is missing or wrong.
    Token,
}

impl Refusal {
    pub(super) fn status(self) -> StatusCode {
        match self {
            Refusal::BadHost => StatusCode::BAD_REQUEST,
            Refusal::Misdirected => StatusCode::MISDIRECTED_REQUEST,
            Refusal::ForeignOrigin => StatusCode::FORBIDDEN,
            Refusal::Token => StatusCode::UNAUTHORIZED,
        }
    }

    pub(super) fn message(self) -> &'static str {
        match self {
            Refusal::BadHost => "The request needs exactly one valid Host header.\n",
            Refusal::Misdirected => {
                "This host name is not served here. Use localhost or the listen address, or add the name to net.http.allowed_hosts.\n"
            }
            Refusal::ForeignOrigin => "Only the watch page of this server may ask for this.\n",
            Refusal::Token => {
                "A token is needed: open the page with ?token=..., or send Authorization: Bearer ... (the value of net.http.token).\n"
            }
        }
    }
}

/// What a path needs beside a known Host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Need {
    /// Style and script, the same for everybody.
    Nothing,
    /// The page: may be linked to from anywhere.
    Token,
    /// The picture and the numbers: only for our own page and for programs.
    TokenAndOrigin,
}

impl Need {
    pub(super) fn of(path: &str) -> Need {
        match path {
            "/watch.css" | "/watch.js" | "/panel.js" | "/charts.js" => Need::Nothing,
            "/" => Need::Token,
            _ => Need::TokenAndOrigin,
        }
    }
}

/// The rules, from the configuration.
#[derive(Debug)]
pub(super) struct Guard {
    names: Vec<String>,
    listen: SocketAddr,
    token: Option<String>,
}

impl Guard {
    pub(super) fn new(listen: SocketAddr, allowed_hosts: &[String], token: Option<String>) -> Guard {
        let names = allowed_hosts.iter().map(|name| normal(name)).collect();
        Guard { names, listen, token }
    }

    /// Checks a request that came in on the local address `local`.
    pub(super) fn check(&self, uri: &Uri, headers: &HeaderMap, local: IpAddr) -> Result<(), Refusal> {
        let need = Need::of(uri.path());
        let host = single(headers, header::HOST).and_then(Authority::parse).ok_or(Refusal::BadHost)?;
        // An absolute request target outranks Host (RFC 9112, section 3.2.2): they must not differ.
        if uri.authority().is_some_and(|authority| Authority::parse(authority.as_str()) != Some(host)) {
            return Err(Refusal::BadHost);
        }
        if !self.is_ours(host.name, local) {
            return Err(Refusal::Misdirected);
        }
        if need == Need::TokenAndOrigin && !same_origin(headers, host) {
            return Err(Refusal::ForeignOrigin);
        }
        if need != Need::Nothing && !self.has_token(uri, headers) {
            return Err(Refusal::Token);
        }
        Ok(())
    }

    fn is_ours(&self, name: &str, local: IpAddr) -> bool {
        let bare = name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(name);
        if let Ok(ip) = bare.parse::<IpAddr>() {
            // An address cannot be rebound; only ours are taken all the same, and loopback for forwarded ports.
            return ip.to_canonical() == local.to_canonical()
                || (ip == self.listen.ip() && !ip.is_unspecified())
                || ip == IpAddr::from([127, 0, 0, 1])
                || ip == IpAddr::from(Ipv6Addr::LOCALHOST)
                || self.names.iter().any(|name| name == bare);
        }
        let name = normal(name);
        name == "localhost" || self.names.contains(&name)
    }

    fn has_token(&self, uri: &Uri, headers: &HeaderMap) -> bool {
        let Some(wanted) = &self.token else { return true };
        let equal = |given: &[u8]| bool::from(given.ct_eq(wanted.as_bytes()));
        let bearer = single(headers, header::AUTHORIZATION)
            .and_then(|value| value.split_once(' '))
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
            .map(|(_, token)| token.trim());
        bearer.is_some_and(|token| equal(token.as_bytes()))
            || query_value(uri.query().unwrap_or(""), "token").is_some_and(|token| equal(&token))
    }
}

/// Name and port of a Host header or an origin; the name in brackets when it is an IPv6 address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Authority<'a> {
    name: &'a str,
    port: Option<u16>,
}

impl<'a> Authority<'a> {
    fn parse(text: &'a str) -> Option<Authority<'a>> {
        let name_end = if text.starts_with('[') { text.find(']')? + 1 } else { text.find(':').unwrap_or(text.len()) };
        let (name, rest) = text.split_at(name_end);
        let port = match rest.strip_prefix(':') {
            Some(digits) if !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()) => {
                Some(digits.parse().ok()?)
            }
            None if rest.is_empty() => None,
            _ => return None,
        };
        // Brackets stand around an IPv6 address and nowhere else (RFC 3986, section 3.2.2).
        let sound = match name.strip_prefix('[') {
            Some(rest) => rest.strip_suffix(']').is_some_and(|ip| ip.parse::<Ipv6Addr>().is_ok()),
            None => !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte)),
        };
        sound.then_some(Authority { name, port })
    }
}

/// Lower case, without the dot of a fully qualified name and the brackets of an address.
fn normal(name: &str) -> String {
    name.strip_suffix('.').unwrap_or(name).trim_matches(['[', ']']).to_ascii_lowercase()
}

fn single(headers: &HeaderMap, name: header::HeaderName) -> Option<&str> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?.to_str().ok()?;
    values.next().is_none().then_some(value)
}

/// Whether a request comes from our own page or from no page at all. Fetch metadata covers what browsers send without
/// an Origin, such as a script element of another site.
fn same_origin(headers: &HeaderMap, host: Authority<'_>) -> bool {
    let site = headers.get("sec-fetch-site").map(|value| value.as_bytes());
    if !matches!(site, None | Some(b"same-origin" | b"none")) {
        return false;
    }
    if !headers.contains_key(header::ORIGIN) {
        return true;
    }
    let Some((scheme, rest)) = single(headers, header::ORIGIN).and_then(|origin| origin.split_once("://")) else {
        return false;
    };
    let default_port = match scheme {
        "http" => 80,
        "https" => 443,
        _ => return false,
    };
    Authority::parse(rest).is_some_and(|origin| {
        normal(origin.name) == normal(host.name)
            && origin.port.unwrap_or(default_port) == host.port.unwrap_or(default_port)
    })
}

/// The first value of `key` in a query string, percent-decoded.
fn query_value(query: &str, key: &str) -> Option<Vec<u8>> {
    let value = query.split('&').find_map(|pair| pair.strip_prefix(key)?.strip_prefix('='))?;
    let mut decoded = Vec::with_capacity(value.len());
    let mut bytes = value.bytes();
    while let Some(byte) = bytes.next() {
        decoded.push(match byte {
            b'%' => hex(bytes.next()?)? << 4 | hex(bytes.next()?)?,
            b'+' => b' ',
            other => other,
        });
    }
    Some(decoded)
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).map(|value| value as u8)
}

#[cfg(test)]
mod tests;
