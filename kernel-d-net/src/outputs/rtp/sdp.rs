//! The session description (RFC 8866) that receivers open, and the commands that play it.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use shm_protocol::frame::{Codec, Rational};
use std::{fmt::Write as _, net::IpAddr, net::SocketAddr, path::Path};

/// What a description says.
#[derive(Debug, Clone)]
pub struct SdpDescription<'a> {
    /// Shown as the session's name.
    pub name: &'a str,
    /// Numeric session id: the SSRC does, it is random and lives as long as the session.
    pub session_id: u64,
    /// Raised with every change of the description.
    pub version: u64,
    /// Where the stream goes.
    pub destination: SocketAddr,
    /// Port of RTCP at the receiver.
    pub rtcp_port: u16,
    /// Time to live, for multicast over IPv4.
    pub ttl: u8,
    /// Payload type.
    pub payload_type: u8,
    /// Codec.
    pub codec: Codec,
    /// Frames per second, when known.
    pub fps: Option<Rational>,
    /// Highest bit rate, kb/s, when known.
    pub bitrate_kbps: Option<u32>,
    /// Sequence and picture parameter set (NAL units without start code), when known.
    pub parameter_sets: Option<(&'a [u8], &'a [u8])>,
    /// Offer RTP/AVPF with PLI and FIR (RFC 4585, RFC 5104); plain RTP/AVP otherwise, which every player takes.
    pub feedback: bool,
    /// SSRC and CNAME (RFC 5576).
    pub source: Option<(u32, &'a str)>,
}

impl SdpDescription<'_> {
    /// The text, lines ended by CR LF.
    pub fn text(&self) -> String {
        let mut lines = vec!["v=0".to_owned()];
        let family = |ip: IpAddr| if ip.is_ipv4() { "IP4" } else { "IP6" };
        let ip = self.destination.ip();
        // The origin names us; an address of ours that is unknown or private says nothing to a receiver.
        let origin = if ip.is_ipv4() { "127.0.0.1" } else { "::1" };
        lines.push(format!("o=- {} {} IN {} {origin}", self.session_id, self.version, family(ip)));
        let name: String = self.name.chars().filter(|c| !c.is_control()).collect();
        lines.push(format!("s={}", if name.is_empty() { "-" } else { &name }));
        // The time to live belongs to IPv4 multicast only (RFC 8866 section 5.7).
        let ttl = if ip.is_ipv4() && ip.is_multicast() { format!("/{}", self.ttl) } else { String::new() };
        lines.push(format!("c=IN {} {ip}{ttl}", family(ip)));
        lines.push("t=0 0".to_owned());
        let profile = if self.feedback { "RTP/AVPF" } else { "RTP/AVP" };
        lines.push(format!("m=video {} {profile} {}", self.destination.port(), self.payload_type));
        if let Some(kbps) = self.bitrate_kbps {
            lines.push(format!("b=AS:{kbps}"));
        }
        lines.push(format!("a=rtpmap:{} {}/90000", self.payload_type, self.encoding_name()));
        lines.extend(self.fmtp());
        if let Some(fps) = self.fps {
            let rate = format!("{:.3}", fps.as_f64());
            lines.push(format!("a=framerate:{}", rate.trim_end_matches('0').trim_end_matches('.')));
        }
        lines.push(format!("a=rtcp:{}", self.rtcp_port)); // RFC 3605
        if self.feedback {
            for feedback in ["nack pli", "ccm fir"] {
                lines.push(format!("a=rtcp-fb:{} {feedback}", self.payload_type));
            }
        }
        if let Some((ssrc, cname)) = self.source {
            lines.push(format!("a=ssrc:{ssrc} cname:{cname}"));
        }
        lines.push("a=recvonly".to_owned());
        lines.join("\r\n") + "\r\n"
    }

    fn encoding_name(&self) -> &'static str {
        match self.codec {
            Codec::H264 => "H264",
            Codec::Hevc => "H265",
            Codec::Av1 => "AV1",
            Codec::Null => "X-QUAD-NULL",
        }
    }

    fn fmtp(&self) -> Option<String> {
        if self.codec != Codec::H264 {
            return None;
        }
        // RFC 6184 section 8.1.
        let mut line = format!("a=fmtp:{} packetization-mode=1", self.payload_type);
        if let Some((sps, pps)) = self.parameter_sets {
            if let Some([profile, constraints, level]) = sps.get(1..4) {
                let _ = write!(line, ";profile-level-id={profile:02X}{constraints:02X}{level:02X}");
            }
            let _ = write!(line, ";sprop-parameter-sets={},{}", STANDARD.encode(sps), STANDARD.encode(pps));
        }
        Some(line)
    }
}

/// The command that plays the description at `path` with little delay.
pub fn play_command(path: &Path) -> String {
    format!("ffplay -protocol_whitelist file,udp,rtp -fflags nobuffer -flags low_delay -i {}", quoted(path))
}

/// `path` for a POSIX shell.
fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    if text.bytes().all(|b| b.is_ascii_alphanumeric() || b"/._-+,:@%".contains(&b)) {
        text
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn description<'a>(destination: &str) -> SdpDescription<'a> {
        SdpDescription {
            name: "quad default",
            session_id: 7,
            version: 1,
            destination: destination.parse().unwrap(),
            rtcp_port: 5005,
            ttl: 4,
            payload_type: 96,
            codec: Codec::H264,
            fps: Rational::new(60_000, 1001),
            bitrate_kbps: Some(8000),
            parameter_sets: Some((&[0x67, 0x42, 0xc0, 0x1f, 0xaa], &[0x68, 0xce])),
            feedback: false,
            source: Some((9, "abc")),
        }
    }

    #[test]
    fn unicast_h264_in_full() {
        let expected = "v=0\r\no=- 7 1 IN IP4 127.0.0.1\r\ns=quad default\r\nc=IN IP4 192.0.2.1\r\nt=0 0\r\n\
            m=video 5004 RTP/AVP 96\r\nb=AS:8000\r\na=rtpmap:96 H264/90000\r\n\
            a=fmtp:96 packetization-mode=1;profile-level-id=42C01F;sprop-parameter-sets=Z0LAH6o=,aM4=\r\n\
            a=framerate:59.94\r\na=rtcp:5005\r\n\
            a=ssrc:9 cname:abc\r\na=recvonly\r\n";
        assert_eq!(description("192.0.2.1:5004").text(), expected);
    }

    #[test]
    fn feedback_is_offered_with_its_profile() {
        let text = SdpDescription { feedback: true, ..description("192.0.2.1:5004") }.text();
        for line in ["m=video 5004 RTP/AVPF 96", "a=rtcp-fb:96 nack pli", "a=rtcp-fb:96 ccm fir"] {
            assert!(text.contains(line), "{line}");
        }
    }

    #[test]
    fn multicast_carries_its_ttl_over_ipv4_only() {
        assert!(description("239.1.2.3:5004").text().contains("\r\nc=IN IP4 239.1.2.3/4\r\n"));
        assert!(description("[ff15::1]:5004").text().contains("\r\nc=IN IP6 ff15::1\r\n"));
    }

    #[test]
    fn unknown_things_are_left_out() {
        let text = SdpDescription {
            fps: None,
            bitrate_kbps: None,
            parameter_sets: None,
            source: None,
            name: "a\r\nb=x",
            ..description("192.0.2.1:5004")
        }
        .text();
        assert!(text.contains("a=fmtp:96 packetization-mode=1\r\n") && text.contains("\r\ns=ab=x\r\n"), "{text}");
        for absent in ["framerate", "sprop", "ssrc", "b=AS"] {
            assert!(!text.contains(absent), "{absent}");
        }
        let null = SdpDescription { codec: Codec::Null, ..description("192.0.2.1:5004") }.text();
        assert!(null.contains("a=rtpmap:96 X-QUAD-NULL/90000") && !null.contains("fmtp"));
    }

    #[test]
    fn the_play_command_survives_a_shell() {
        assert!(play_command(Path::new("/run/quad/x.sdp")).ends_with("-i /run/quad/x.sdp"));
        assert!(play_command(Path::new("/a b/it's.sdp")).ends_with(r"-i '/a b/it'\''s.sdp'"));
    }
}
