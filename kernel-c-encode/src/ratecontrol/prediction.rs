//! What the next frame is expected to cost: one [`BitsModel`] for IDR pictures, one for all others, and what a picture
//! costs that is finer than the one it refers to.

use super::bits::BitsModel;
use super::controller::CodedFrame;
use super::model::QpScale;
use super::satd::Complexity;

/// One QP of H.264 and HEVC, octaves.
pub const QP: f64 = 1.0 / 6.0;
/// The prediction may be wrong by this factor without breaking a bound: SATD without motion search and an α half-way to
/// a new content miss by about this much.
pub const MARGIN: f64 = 1.5;
/// Least complexity per pixel: a block of 8 × 8 with a difference of one level in a single coefficient has 1/64.
const LEAST_PER_PIXEL: f64 = 1.0 / 64.0;
/// α of an IDR and of other frames before anything was coded. Measured: docs/rate-control.md.
const FIRST_ALPHA_INTRA: f64 = 2.6;
const FIRST_ALPHA_INTER: f64 = 0.4;
/// A frame of which so much is new is a cut, coded like an IDR, if of the frame before at most half as much was, or if
/// its detail exceeds the mean of the last few frames by this factor. (A cut to less detail needs no care.)
const CUT: f64 = 0.7;
const CUT_DETAIL: f64 = 1.4;
/// Weight of a frame in that mean.
const DETAIL_WEIGHT: f64 = 0.25;
/// How much finer than its reference a picture may be before it refines it: what the reference rounded to its step is off
/// by half of that at the most, and encoders round what is below 5/6 of a step to 0 in P pictures, so that little remains
/// until the step is 3/5 of the reference's; half of that way, to err on the side of too many bits.
const REFINES_BELOW: f64 = 2.0 * QP;
/// A picture that took less than this of what its refinement would cost did not refine.
const NOT_REFINED: f64 = 1.0 / 3.0;

/// A frame to come, and what is known of its like.
#[derive(Debug, Clone, Copy)]
pub struct Task {
    /// Its complexity.
    pub work: f64,
    /// An IDR, or the first frame after a cut, which finds as little to refer to.
    pub like_idr: bool,
    /// What is known.
    pub model: BitsModel,
    refinement: Refinement,
}

impl Task {
    /// Bits expected at a step of `2^octave`, rather too many than too few.
    pub fn most_bits(&self, octave: f64) -> f64 {
        self.model.most_bits(self.work, octave) + self.refinement.bits(octave)
    }

    /// The octave at which `bits` are expected.
    pub fn octave(&self, bits: f64) -> f64 {
        self.refinement.octave(self.model.octave(self.work, bits), bits)
    }

    /// The octave at which hardly more than `bits` can be expected.
    pub fn most_octave(&self, bits: f64) -> f64 {
        self.refinement.octave(self.model.most_octave(self.work, bits), bits)
    }
}

/// What a picture finer than the one it refers to costs beyond what is new in it: detail that the reference lacks is
/// coded now. It is the difference of what an IDR takes at the one step and at the other.
#[derive(Debug, Clone, Copy, Default)]
struct Refinement {
    /// The octave below which it costs anything.
    begins: f64,
    /// What an IDR takes at that octave, bits.
    detail_bits: f64,
}

impl Refinement {
    fn bits(&self, octave: f64) -> f64 {
        self.detail_bits * ((self.begins - octave).max(0.0).exp2() - 1.0)
    }

    /// The octave at which both take `bits`, when what is new takes them alone at `alone`.
    fn octave(&self, alone: f64, bits: f64) -> f64 {
        if alone >= self.begins || self.detail_bits <= 0.0 {
            return alone;
        }
        // bits × 2^(alone − octave) + detail × 2^(begins − octave) − detail = bits
        let bits = bits.max(1.0);
        let both = bits * alone.exp2() + self.detail_bits * self.begins.exp2();
        (both / (bits + self.detail_bits)).log2().min(self.begins)
    }
}

/// Foretells the cost of frames and learns from what they took. Nothing is allocated.
#[derive(Debug, Clone)]
pub struct Predictor {
    least_work: f64,
    intra: BitsModel,
    inter: BitsModel,
    /// Octave at which what the next picture refers to was coded: where nothing is new, that of an older picture.
    reference: Option<f64>,
    /// How much of the last frame was new, and the mean detail of the last few.
    last_fresh: f64,
    mean_detail: f64,
}

impl Predictor {
    /// For frames of `pixels` each, before the first.
    pub fn new(pixels: u64) -> Predictor {
        Predictor {
            least_work: (pixels as f64 * LEAST_PER_PIXEL).max(1.0),
            intra: BitsModel::new(FIRST_ALPHA_INTRA),
            inter: BitsModel::new(FIRST_ALPHA_INTER),
            reference: None,
            last_fresh: 0.0,
            mean_detail: 0.0,
        }
    }

    /// Complexity within bounds that every formula bears.
    pub fn work(&self, complexity: f64) -> f64 {
        if complexity.is_finite() { complexity.max(self.least_work) } else { self.least_work }
    }

    /// What the next frame is.
    pub fn task(&self, complexity: Complexity, is_idr: bool) -> Task {
        let unknown = self.inter.coded() == 0 && complexity.fresh >= CUT;
        let like_idr = is_idr || unknown || self.is_cut(complexity);
        let work = self.work(complexity.of(like_idr));
        let refinement = match self.reference {
            Some(reference) if !like_idr => {
                let begins = reference - REFINES_BELOW;
                Refinement { begins, detail_bits: self.intra.bits(self.work(complexity.intra), begins) }
            }
            _ => Refinement::default(),
        };
        Task { work, like_idr, model: if like_idr { self.intra } else { self.inter }, refinement }
    }

    /// Learns what became of the next frame.
    pub fn coded(&mut self, complexity: Complexity, frame: CodedFrame, scale: QpScale) {
        let (octave, bits) = (scale.octave(frame.qp), frame.bits as f64);
        let is_cut = !frame.idr && self.is_cut(complexity);
        let task = self.task(complexity, frame.idr);
        let new_bits = task.model.bits(task.work, octave);
        let refined_bits = task.refinement.bits(octave);
        if frame.idr {
            self.intra.learn(task.work, octave, bits);
        } else {
            // After a cut what was learnt before it is worth nothing.
            if is_cut {
                self.inter.forget();
                self.mean_detail = 0.0;
            }
            self.learn_inter(self.work(complexity.inter), octave, bits, new_bits, refined_bits);
        }
        self.refer(complexity, octave, frame.idr || is_cut, (bits - new_bits) / refined_bits);
        self.last_fresh = complexity.fresh;
        let detail = self.work(complexity.intra);
        let weight = if self.mean_detail > 0.0 { DETAIL_WEIGHT } else { 1.0 };
        self.mean_detail += (detail - self.mean_detail) * weight;
    }

    fn learn_inter(&mut self, work: f64, octave: f64, bits: f64, new_bits: f64, refined_bits: f64) {
        if bits <= new_bits + refined_bits * NOT_REFINED {
            return self.inter.learn(work, octave, bits);
        }
        // How much of it refined is a guess: the rest may raise what new things cost, not lower it.
        let own_bits = bits - refined_bits;
        if own_bits > new_bits {
            self.inter.learn(work, octave, own_bits);
        }
    }

    /// Follows what the next picture refers to. `refined`: how much of the refinement expected was paid for; what is kept
    /// of the picture before is as fine as it was but for that.
    fn refer(&mut self, complexity: Complexity, octave: f64, all_new: bool, refined: f64) {
        let kept = if all_new { 0.0 } else { (1.0 - complexity.fresh).clamp(0.0, 1.0) };
        let was = self.reference.unwrap_or(octave);
        let refined = if refined.is_finite() { refined.clamp(0.0, 1.0) } else { 0.0 };
        let reference = (was + (octave - was) * refined) * kept + octave * (1.0 - kept);
        self.reference = Some(if reference.is_finite() { reference } else { octave });
    }

    /// Whether the next frame of that complexity finds nothing to refer to.
    fn is_cut(&self, complexity: Complexity) -> bool {
        let sudden = self.last_fresh <= complexity.fresh / 2.0;
        let more_detail = self.work(complexity.intra) > self.mean_detail * CUT_DETAIL;
        complexity.fresh >= CUT && (sudden || more_detail)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCALE: QpScale = QpScale::H26x;
    const STILL: Complexity = Complexity { intra: 1e6, inter: 0.0, fresh: 0.05 };

    fn coded(predictor: &mut Predictor, qp: u8, idr: bool, bits: u64) {
        predictor.coded(STILL, CodedFrame { bits, qp, idr }, SCALE);
    }

    fn expected(predictor: &Predictor, qp: u8) -> f64 {
        predictor.task(STILL, false).most_bits(SCALE.octave(qp))
    }

    #[test]
    fn a_picture_finer_than_its_reference_costs_the_detail_that_it_lacks() {
        let mut predictor = Predictor::new(1 << 20);
        coded(&mut predictor, 40, true, 40_000);
        // As fine or coarser: next to nothing. Ten QP finer: what an IDR of QP 32 takes beyond one of QP 40.
        assert!(expected(&predictor, 40) < 1000.0 && expected(&predictor, 38) < 1000.0);
        let detail = 40_000.0 * (2f64.powf(10.0 / 6.0) - 2f64.powf(2.0 / 6.0));
        assert!((expected(&predictor, 30) / detail - 1.0).abs() < 0.1, "{} of {detail}", expected(&predictor, 30));
        let task = predictor.task(STILL, false);
        assert!((task.most_octave(task.most_bits(4.0)) - 4.0).abs() < 0.01);
        // Once that is paid for it is there, and stays when a coarser picture follows.
        coded(&mut predictor, 30, false, detail as u64);
        coded(&mut predictor, 40, false, 100);
        assert!(expected(&predictor, 30) < detail / 4.0, "{} of {detail}", expected(&predictor, 30));
    }

    #[test]
    fn a_refinement_that_was_not_paid_for_is_still_to_come() {
        let mut predictor = Predictor::new(1 << 20);
        coded(&mut predictor, 40, true, 40_000);
        let before = expected(&predictor, 30);
        coded(&mut predictor, 36, false, 200);
        assert!(expected(&predictor, 30) > before * 0.8, "{} of {before}", expected(&predictor, 30));
    }

    #[test]
    fn a_refinement_does_not_teach_that_new_things_cost_nothing_or_everything() {
        let mut predictor = Predictor::new(1 << 20);
        coded(&mut predictor, 30, true, 100_000);
        for _ in 0..5 {
            coded(&mut predictor, 30, false, 2000);
        }
        let usual = expected(&predictor, 30);
        coded(&mut predictor, 20, false, 180_000);
        let after = expected(&predictor, 30);
        assert!(after >= usual * 0.9, "{after} after {usual}");
    }
}
