//! The null encoder's access unit, a descriptor, is the payload of one packet, whatever the payload size.

use crate::au::AuView;

use super::{PacketPlan, PayloadError, PayloadSize};

/// Plans one packet that carries all of `au`.
///
/// # Errors
/// [`PayloadError::NullSize`] when it is empty or longer than a datagram.
pub fn plan(au: &AuView<'_>, plan: &mut PacketPlan) -> Result<(), PayloadError> {
    plan.clear();
    if au.is_empty() || au.len() > PayloadSize::MAX {
        return Err(PayloadError::NullSize(au.len()));
    }
    let mut crc = crc32fast::Hasher::new();
    au.for_each_chunk(|_, bytes| crc.update(bytes));
    plan.crc = crc.finalize();
    plan.has_idr = true; // every descriptor stands alone
    plan.push_single(&[], 0, au.len());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_null_access_unit_is_one_marked_packet() {
        let bytes = [7u8; 300];
        let mut p = PacketPlan::new();
        plan(&AuView::of(&bytes), &mut p).unwrap();
        assert_eq!(p.len(), 1);
        let packet = p.packet(0).unwrap();
        assert!(packet.marker);
        assert_eq!((packet.payload_bytes, packet.pieces[0].offset, packet.pieces[0].len), (300, 0, 300));
        assert_eq!(p.crc(), crc32fast::hash(&bytes));
    }

    #[test]
    fn what_does_not_fit_one_packet_is_refused() {
        let mut p = PacketPlan::new();
        assert_eq!(plan(&AuView::of(&[]), &mut p), Err(PayloadError::NullSize(0)));
        let big = vec![0u8; PayloadSize::MAX as usize + 1];
        assert_eq!(plan(&AuView::of(&big), &mut p), Err(PayloadError::NullSize(PayloadSize::MAX + 1)));
        assert!(p.is_empty());
    }
}
