//! The parameter sets a stream carries in band, remembered for its session description.

use crate::{au::AuView, payload::PacketPlan};

/// Longest parameter set remembered, bytes: with VUI and HRD they have some 50.
const MAX_SET_BYTES: usize = 256;

/// Sequence and picture parameter set seen last.
#[derive(Debug, Default)]
pub struct ParameterSets {
    sps: Vec<u8>,
    pps: Vec<u8>,
    version: u64,
}

impl ParameterSets {
    /// Rises whenever one of them changes: time to write the description anew.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Both, without start codes, once both were seen.
    pub fn get(&self) -> Option<(&[u8], &[u8])> {
        (!self.sps.is_empty() && !self.pps.is_empty()).then_some((&self.sps, &self.pps))
    }

    /// Looks at an access unit.
    pub fn learn(&mut self, au: &AuView<'_>, plan: &PacketPlan) {
        let changed = remember(&mut self.sps, au, plan.sps()) | remember(&mut self.pps, au, plan.pps());
        self.version += u64::from(changed);
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
    use shm_protocol::frame::Codec;

    #[test]
    fn sets_are_remembered_and_changes_noticed() {
        let mut sets = ParameterSets::default();
        let mut see = |au: &[u8]| {
            let mut plan = PacketPlan::new();
            plan.make(&AuView::of(au), Codec::H264, PayloadSize::DEFAULT).unwrap();
            sets.learn(&AuView::of(au), &plan);
            (sets.version(), sets.get().map(|(s, p)| (s.to_vec(), p.to_vec())))
        };
        assert_eq!(see(&[0, 0, 1, 0x67, 1]), (1, None));
        assert_eq!(see(&[0, 0, 1, 0x68, 2, 0, 0, 1, 0x65, 9]), (2, Some((vec![0x67, 1], vec![0x68, 2]))));
        assert_eq!(see(&[0, 0, 1, 0x67, 1, 0, 0, 1, 0x68, 2]).0, 2, "the same again");
        assert_eq!(see(&[0, 0, 1, 0x67, 3]), (3, Some((vec![0x67, 3], vec![0x68, 2]))));
    }
}
