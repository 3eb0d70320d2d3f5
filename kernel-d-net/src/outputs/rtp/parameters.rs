//! The parameter sets a stream carries in band, remembered for its session description.

use shm_protocol::frame::Codec;

use crate::{au::AuView, payload::PacketPlan};

/// Longest parameter set remembered, bytes: with VUI and HRD they have some 50.
const MAX_SET_BYTES: usize = 256;

/// What a decoder is set up with: NAL units without start code, or the payload of an OBU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Setup<'a> {
    /// Of an H.264 stream.
    H264 {
        /// Sequence parameter set.
        sps: &'a [u8],
        /// Picture parameter set.
        pps: &'a [u8],
    },
    /// Of an HEVC stream.
    Hevc {
        /// Video parameter set.
        vps: &'a [u8],
        /// Sequence parameter set.
        sps: &'a [u8],
        /// Picture parameter set.
        pps: &'a [u8],
    },
    /// Of an AV1 stream.
    Av1 {
        /// Payload of the sequence header OBU.
        sequence_header: &'a [u8],
    },
}

/// The parameter sets seen last, all of one codec.
#[derive(Debug, Default)]
pub struct ParameterSets {
    codec: Option<Codec>,
    vps: Vec<u8>,
    sps: Vec<u8>,
    pps: Vec<u8>,
    sequence_header: Vec<u8>,
    version: u64,
}

impl ParameterSets {
    /// Rises whenever one of them or the codec changes: time to write the description anew.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// All that the codec has, once all were seen.
    pub fn get(&self) -> Option<Setup<'_>> {
        let ParameterSets { codec, vps, sps, pps, sequence_header, .. } = self;
        let (setup, complete) = match codec.as_ref()? {
            Codec::H264 => (Setup::H264 { sps, pps }, !sps.is_empty() && !pps.is_empty()),
            Codec::Hevc => (Setup::Hevc { vps, sps, pps }, ![vps, sps, pps].iter().any(|set| set.is_empty())),
            Codec::Av1 => (Setup::Av1 { sequence_header }, !sequence_header.is_empty()),
            Codec::Null => return None,
        };
        complete.then_some(setup)
    }

    /// Looks at an access unit of `codec`.
    pub fn learn(&mut self, au: &AuView<'_>, codec: Codec, plan: &PacketPlan) {
        let other = self.codec.is_some_and(|known| known != codec);
        if other {
            // Those of another codec say nothing of this one.
            for set in [&mut self.vps, &mut self.sps, &mut self.pps, &mut self.sequence_header] {
                set.clear();
            }
        }
        self.codec = Some(codec);
        let changed = remember(&mut self.vps, au, plan.vps())
            | remember(&mut self.sps, au, plan.sps())
            | remember(&mut self.pps, au, plan.pps())
            | remember(&mut self.sequence_header, au, plan.sequence_header());
        self.version += u64::from(changed || other);
    }
}

fn remember(set: &mut Vec<u8>, au: &AuView<'_>, range: Option<(u32, u32)>) -> bool {
    let Some((offset, len)) = range.filter(|range| range.1 as usize <= MAX_SET_BYTES) else { return false };
    let mut bytes = [0u8; MAX_SET_BYTES];
    let bytes = &mut bytes[..len as usize];
    let copied = au.copy_to(offset, bytes);
    if copied != bytes.len() || set == bytes {
        return false;
    }
    set.clear();
    set.extend_from_slice(bytes);
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::payload::PayloadSize;

    fn see(sets: &mut ParameterSets, codec: Codec, au: &[u8]) -> u64 {
        let mut plan = PacketPlan::new();
        plan.make(&AuView::of(au), codec, PayloadSize::DEFAULT).unwrap();
        sets.learn(&AuView::of(au), codec, &plan);
        sets.version()
    }

    #[test]
    fn sets_are_remembered_and_changes_noticed() {
        let mut sets = ParameterSets::default();
        assert_eq!(see(&mut sets, Codec::H264, &[0, 0, 1, 0x67, 1]), 1);
        assert_eq!(sets.get(), None);
        assert_eq!(see(&mut sets, Codec::H264, &[0, 0, 1, 0x68, 2, 0, 0, 1, 0x65, 9]), 2);
        assert_eq!(sets.get(), Some(Setup::H264 { sps: &[0x67, 1], pps: &[0x68, 2] }));
        assert_eq!(see(&mut sets, Codec::H264, &[0, 0, 1, 0x67, 1, 0, 0, 1, 0x68, 2]), 2, "the same again");
        assert_eq!(see(&mut sets, Codec::H264, &[0, 0, 1, 0x67, 3]), 3);
        assert_eq!(sets.get(), Some(Setup::H264 { sps: &[0x67, 3], pps: &[0x68, 2] }));
    }

    #[test]
    fn another_codec_is_a_change_and_takes_no_set_over() {
        let mut sets = ParameterSets::default();
        see(&mut sets, Codec::H264, &[0, 0, 1, 0x67, 1, 0, 0, 1, 0x68, 2]);
        let before = sets.version();
        assert_eq!(see(&mut sets, Codec::Hevc, &[0, 0, 1, 0x42, 1, 7, 0, 0, 1, 0x44, 1, 8]), before + 1);
        assert_eq!(sets.get(), None, "no video parameter set yet");
        see(&mut sets, Codec::Hevc, &[0, 0, 1, 0x40, 1, 6]);
        assert_eq!(sets.get(), Some(Setup::Hevc { vps: &[0x40, 1, 6], sps: &[0x42, 1, 7], pps: &[0x44, 1, 8] }));
        let before = sets.version();
        assert_eq!(see(&mut sets, Codec::Av1, &[0x0a, 2, 5, 6]), before + 1);
        assert_eq!(sets.get(), Some(Setup::Av1 { sequence_header: &[5, 6] }));
        assert_eq!(see(&mut sets, Codec::Null, &[1]), before + 2);
        assert_eq!(sets.get(), None);
    }
}
