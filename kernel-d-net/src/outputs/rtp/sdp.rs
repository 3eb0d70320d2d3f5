//! The session description (RFC 8866) that receivers open, and the commands that play it.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use shm_protocol::frame::{Codec, Rational};
use std::{fmt::Write as _, net::IpAddr, net::SocketAddr, path::Path};

use super::parameters::Setup;
use crate::codecs::{av1::SequenceHeader, hevc::ProfileTierLevel};

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
    /// Payload type of the codec.
    pub payload_type: u8,
    /// Codec.
    pub codec: Codec,
    /// Frames per second, when known.
    pub fps: Option<Rational>,
    /// Highest bit rate, kb/s, when known.
    pub bitrate_kbps: Option<u32>,
    /// The codec that the stream had before, when it changed: whoever opened the description then has to open it anew.
    pub codec_before: Option<Codec>,
    /// Parameter sets or sequence header, when known.
    pub parameter_sets: Option<Setup<'a>>,
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
        if let Some(before) = self.codec_before {
            let (before, now) = (before.name(), self.codec.name());
            lines.push(format!("i=The codec changed from {before} to {now}: open this description anew"));
        }
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
        let parameters = match self.parameter_sets {
            // RFC 6184 section 8.1.
            Some(Setup::H264 { sps, pps }) => {
                let mut text = "packetization-mode=1".to_owned();
                if let Some([profile, constraints, level]) = sps.get(1..4) {
                    let _ = write!(text, ";profile-level-id={profile:02X}{constraints:02X}{level:02X}");
                }
                let _ = write!(text, ";sprop-parameter-sets={},{}", STANDARD.encode(sps), STANDARD.encode(pps));
                text
            }
            None if self.codec == Codec::H264 => "packetization-mode=1".to_owned(),
            Some(Setup::Hevc { vps, sps, pps }) => hevc_parameters(vps, sps, pps),
            Some(Setup::Av1 { sequence_header }) => {
                let SequenceHeader { profile, level_idx, tier, .. } = SequenceHeader::parse(sequence_header)?;
                format!("profile={profile};level-idx={level_idx};tier={tier}")
            }
            None => return None,
        };
        Some(format!("a=fmtp:{} {parameters}", self.payload_type))
    }
}

/// RFC 7798 section 7.1: what the parameter sets say of profile, tier and level, and the parameter sets themselves.
fn hevc_parameters(vps: &[u8], sps: &[u8], pps: &[u8]) -> String {
    let mut text = String::new();
    if let Some(ptl) = ProfileTierLevel::of_sps(sps) {
        let (tier, level) = (u8::from(ptl.high_tier), ptl.level_idc);
        let _ = write!(text, "profile-space={};profile-id={}", ptl.profile_space, ptl.profile_idc);
        let _ = write!(text, ";tier-flag={tier};level-id={level};interop-constraints=");
        for byte in ptl.constraints {
            let _ = write!(text, "{byte:02X}");
        }
        let _ = write!(text, ";profile-compatibility-indicator={:08X};", ptl.compatibility);
    }
    let [vps, sps, pps] = [vps, sps, pps].map(|set| STANDARD.encode(set));
    let _ = write!(text, "sprop-vps={vps};sprop-sps={sps};sprop-pps={pps}");
    text
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
            codec_before: None,
            parameter_sets: Some(Setup::H264 { sps: &[0x67, 0x42, 0xc0, 0x1f, 0xaa], pps: &[0x68, 0xce] }),
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
        let none = SdpDescription { parameter_sets: None, ..description("192.0.2.1:5004") };
        let null = SdpDescription { codec: Codec::Null, ..none.clone() }.text();
        assert!(null.contains("a=rtpmap:96 X-QUAD-NULL/90000") && !null.contains("fmtp"));
    }

    #[test]
    fn hevc_names_profile_tier_level_and_its_three_sets() {
        let sps = [0x42, 1, 1, 1, 0x60, 0, 0, 3, 0, 0x90, 0, 0, 3, 0, 0, 3, 0, 0x5a, 0xa0];
        let setup = Setup::Hevc { vps: &[0x40, 1], sps: &sps, pps: &[0x44, 1] };
        let hevc = SdpDescription {
            codec: Codec::Hevc,
            payload_type: 97,
            parameter_sets: Some(setup),
            ..description("192.0.2.1:5004")
        };
        let text = hevc.text();
        let fmtp = "a=fmtp:97 profile-space=0;profile-id=1;tier-flag=0;level-id=90;interop-constraints=900000000000;\
            profile-compatibility-indicator=60000000;sprop-vps=QAE=;sprop-sps=QgEBAWAAAAMAkAAAAwAAAwBaoA==;sprop-pps=RAE=\r\n";
        assert!(text.contains("a=rtpmap:97 H265/90000\r\n") && text.contains(fmtp), "{text}");
        let unknown = SdpDescription { parameter_sets: None, ..hevc }.text();
        assert!(unknown.contains("a=rtpmap:97 H265/90000\r\n") && !unknown.contains("fmtp"), "{unknown}");
    }

    #[test]
    fn av1_names_profile_level_and_tier() {
        // Profile 0, one operating point of level index 4.
        let header = [0, 0, 0, 4 << 3 | 1, 0x09, 0, 0, 0, 0, 0, 0, 0];
        let text = SdpDescription {
            codec: Codec::Av1,
            payload_type: 98,
            parameter_sets: Some(Setup::Av1 { sequence_header: &header }),
            ..description("192.0.2.1:5004")
        }
        .text();
        assert!(text.contains("a=rtpmap:98 AV1/90000\r\na=fmtp:98 profile=0;level-idx=4;tier=0\r\n"), "{text}");
    }

    #[test]
    fn a_change_of_codec_is_named_behind_the_media_line() {
        let text = SdpDescription { codec_before: Some(Codec::Av1), ..description("192.0.2.1:5004") }.text();
        let named = "RTP/AVP 96\r\ni=The codec changed from av1 to h264: open this description anew\r\nb=AS";
        assert!(text.contains(named), "{text}");
    }

    #[test]
    fn the_play_command_survives_a_shell() {
        assert!(play_command(Path::new("/run/quad/x.sdp")).ends_with("-i /run/quad/x.sdp"));
        assert!(play_command(Path::new("/a b/it's.sdp")).ends_with(r"-i '/a b/it'\''s.sdp'"));
    }
}
