//! What waits for one viewer.

use std::collections::VecDeque;

use super::au::SharedAu;

/// Access units one viewer may be behind: half a second at 60 fps. A backlog of a full 16-slot ring after a restart fits
/// twice; a viewer later than this is better served by the next IDR than by old pictures.
pub(super) const QUEUE_AUS: usize = 30;

/// Bytes one viewer may be behind: half a second at 128 Mbit/s, more than browsers decode. The bytes are shared between
/// viewers, so this bounds the memory of all who are equally late, not of each.
pub(super) const QUEUE_BYTES: usize = 8 << 20;

/// What became of an access unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pushed {
    /// It waits to be sent.
    Queued,
    /// It was left out: the viewer waits for an IDR.
    Skipped,
    /// No room: the viewer lost its place, this many access units were dropped and it now waits for an IDR.
    Overflowed(usize),
    /// No room, but an IDR was in the queue: this many older access units were dropped and the viewer goes on there.
    Jumped(usize),
}

/// Bounded queue of one viewer. Holds only what decodes: it starts at an IDR and has no gaps after it.
#[derive(Debug)]
pub(super) struct ViewerQueue {
    waiting: VecDeque<SharedAu>,
    bytes: usize,
    needs_idr: bool,
}

impl ViewerQueue {
    /// An empty queue that takes nothing before an IDR.
    pub(super) fn new() -> ViewerQueue {
        ViewerQueue { waiting: VecDeque::with_capacity(QUEUE_AUS), bytes: 0, needs_idr: true }
    }

    /// Whether nothing is taken before the next IDR.
    pub(super) fn needs_idr(&self) -> bool {
        self.needs_idr
    }

    /// Adds an access unit. An empty queue takes one of any size.
    pub(super) fn push(&mut self, au: &SharedAu) -> Pushed {
        if self.needs_idr && !au.idr {
            return Pushed::Skipped;
        }
        let mut outcome = Pushed::Queued;
        if !self.has_room(au) {
            let dropped = self.drop_to_newest_idr();
            if dropped > 0 && !self.needs_idr && self.has_room(au) {
                outcome = Pushed::Jumped(dropped);
            } else {
                let dropped = dropped + self.clear();
                if !au.idr {
                    self.needs_idr = true;
                    return Pushed::Overflowed(dropped + 1);
                }
                outcome = Pushed::Jumped(dropped);
            }
        }
        self.needs_idr = false;
        self.bytes += au.message.len();
        self.waiting.push_back(au.clone());
        outcome
    }

    /// The oldest access unit.
    pub(super) fn pop(&mut self) -> Option<SharedAu> {
        let au = self.waiting.pop_front()?;
        self.bytes -= au.message.len();
        Some(au)
    }

    /// The viewer or the publisher lost something: only an IDR helps. Keeps a queued one. Gives the number dropped.
    pub(super) fn lose_place(&mut self) -> usize {
        self.drop_to_newest_idr()
    }

    /// Access units that were published before this queue's end never came: what is queued still decodes, the next
    /// needs an IDR.
    pub(super) fn gap(&mut self) {
        self.needs_idr = true;
    }

    fn has_room(&self, au: &SharedAu) -> bool {
        self.waiting.is_empty()
            || (self.waiting.len() < QUEUE_AUS && self.bytes.saturating_add(au.message.len()) <= QUEUE_BYTES)
    }

    /// Drops what lies before the newest queued IDR; everything, when there is none.
    fn drop_to_newest_idr(&mut self) -> usize {
        match self.waiting.iter().rposition(|au| au.idr) {
            Some(at) => {
                self.bytes -= self.waiting.drain(..at).map(|au| au.message.len()).sum::<usize>();
                at
            }
            None => {
                self.needs_idr = true;
                self.clear()
            }
        }
    }

    fn clear(&mut self) -> usize {
        self.bytes = 0;
        self.waiting.drain(..).count()
    }
}

#[cfg(test)]
mod tests {
    use super::super::au::tests::shared;
    use super::*;

    fn ids(queue: &mut ViewerQueue) -> Vec<u64> {
        std::iter::from_fn(|| queue.pop()).map(|au| au.frame_id).collect()
    }

    #[test]
    fn nothing_is_taken_before_an_idr() {
        let mut queue = ViewerQueue::new();
        assert_eq!(queue.push(&shared(1, false, 10)), Pushed::Skipped);
        assert_eq!(queue.push(&shared(2, true, 10)), Pushed::Queued);
        assert_eq!(queue.push(&shared(3, false, 10)), Pushed::Queued);
        assert_eq!(ids(&mut queue), [2, 3]);
        assert_eq!(queue.bytes, 0);
    }

    #[test]
    fn a_full_queue_is_dropped_up_to_the_next_idr() {
        let mut queue = ViewerQueue::new();
        queue.push(&shared(0, true, 10));
        queue.pop();
        for id in 1..=QUEUE_AUS as u64 {
            assert_eq!(queue.push(&shared(id, false, 10)), Pushed::Queued);
        }
        assert_eq!(queue.push(&shared(31, false, 10)), Pushed::Overflowed(QUEUE_AUS + 1));
        assert!(queue.needs_idr());
        assert_eq!(queue.push(&shared(32, false, 10)), Pushed::Skipped);
        assert_eq!(queue.push(&shared(33, true, 10)), Pushed::Queued);
        assert_eq!(ids(&mut queue), [33]);
    }

    #[test]
    fn a_full_queue_with_an_idr_inside_goes_on_there_without_asking() {
        let mut queue = ViewerQueue::new();
        for id in 0..QUEUE_AUS as u64 {
            queue.push(&shared(id, id == 0 || id == 20, 10));
        }
        assert_eq!(queue.push(&shared(30, false, 10)), Pushed::Jumped(20));
        assert!(!queue.needs_idr());
        assert_eq!(ids(&mut queue), (20..=30).collect::<Vec<_>>());
    }

    #[test]
    fn a_full_queue_that_begins_with_its_only_idr_is_emptied() {
        let mut queue = ViewerQueue::new();
        for id in 0..QUEUE_AUS as u64 {
            queue.push(&shared(id, id == 0, 10));
        }
        assert_eq!(queue.push(&shared(30, false, 10)), Pushed::Overflowed(31));
        assert_eq!(queue.bytes, 0);
    }

    #[test]
    fn an_idr_into_a_full_queue_replaces_it() {
        let mut queue = ViewerQueue::new();
        for id in 0..QUEUE_AUS as u64 {
            queue.push(&shared(id, id == 0, 10));
        }
        assert_eq!(queue.push(&shared(30, true, 10)), Pushed::Jumped(QUEUE_AUS));
        assert_eq!(ids(&mut queue), [30]);
    }

    #[test]
    fn bytes_are_bounded_but_an_empty_queue_takes_any_size() {
        let mut queue = ViewerQueue::new();
        assert_eq!(queue.push(&shared(0, true, QUEUE_BYTES + 1)), Pushed::Queued);
        assert!(matches!(queue.push(&shared(1, false, 1)), Pushed::Overflowed(2)));
        queue.push(&shared(2, true, QUEUE_BYTES / 2));
        assert_eq!(queue.push(&shared(3, false, QUEUE_BYTES / 4)), Pushed::Queued);
        assert!(matches!(queue.push(&shared(4, false, QUEUE_BYTES / 2)), Pushed::Overflowed(3)));
    }

    #[test]
    fn a_gap_leaves_what_decodes_and_waits_for_an_idr() {
        let mut queue = ViewerQueue::new();
        queue.push(&shared(0, true, 10));
        queue.push(&shared(1, false, 10));
        queue.gap();
        assert_eq!(queue.push(&shared(3, false, 10)), Pushed::Skipped);
        queue.push(&shared(4, true, 10));
        assert_eq!(ids(&mut queue), [0, 1, 4]);
    }

    #[test]
    fn a_viewer_that_lost_its_place_keeps_a_queued_idr() {
        let mut queue = ViewerQueue::new();
        queue.push(&shared(0, true, 10));
        queue.push(&shared(1, false, 10));
        queue.push(&shared(2, true, 10));
        assert_eq!(queue.lose_place(), 2);
        assert!(!queue.needs_idr());
        queue.pop();
        assert_eq!(queue.lose_place(), 0);
        assert!(queue.needs_idr());
    }
}
