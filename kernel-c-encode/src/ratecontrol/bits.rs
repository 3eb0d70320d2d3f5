//! Bits of a frame as a function of its complexity and quantiser step, learnt from the frames coded.

/// How far a single frame that came out smaller than expected moves `log2 α`: half way, so that a change of content is
/// learnt in three frames (7/8) and an error of one frame that differs by chance is halved. One that came out larger
/// moves it all the way: the bounds rest on α being no lower than what was seen last.
const LEARNING: f64 = 0.5;
/// No single frame moves α by more than this, octaves: a frame that was all skipped says little about the next.
const LARGEST_STEP: f64 = 2.0;
/// Bounds of `log2 α`: far beyond anything seen (0.05 to 3), so that no chain of freak frames ends in infinity.
const LOG2_ALPHA_BOUND: f64 = 12.0;
/// Octaves beyond these belong to no scale (QP 0 to 51 are −0.7 to 7.8).
const OCTAVES: (f64, f64) = (-4.0, 12.0);
/// Complexities and bits below these say nothing; they also keep every quotient finite.
const LEAST_COMPLEXITY: f64 = 1.0;
const LEAST_BITS: f64 = 1.0;
/// Most that bits fall beyond `1 / Qstep`, octaves an octave. Seen: grain about the dead zone of openh264 takes 2.5 times
/// the bits at one QP less, which is 7.
const STEEPEST: f64 = 8.0;
/// How far from the last quantiser the steepness is believed, octaves: six QP.
const STEEP_WITHIN: f64 = 1.0;
/// What a frame still counts in the steepness when the next one comes: the last seven make the line.
const REMEMBERED: f64 = 0.85;
/// What speaks for no steepness beforehand, octaves²: as much as five frames of which each differs by a QP from their
/// mean. Frames of one quantiser that differ by chance thus say nothing.
const LEVEL: f64 = 0.03;

/// `bits = α × complexity / Qstep`, α learnt. It is the first-order term of the quadratic model of JM and MPEG-4 (Chiang
/// and Zhang 1997), with SATD in place of MAD, and the `X = bits × Q` of MPEG-2 Test Model 5.
///
/// Around the last quantiser bits may fall faster than `1 / Qstep`: noise that just reaches beyond the encoder's dead
/// zone does. How much faster is learnt too ([`Line`]).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BitsModel {
    /// At the octave [`BitsModel::near`].
    log2_alpha: f64,
    /// By how many octaves an octave bits fall beyond `1 / Qstep`.
    steepness: f64,
    /// Where the last frame was.
    near: f64,
    line: Line,
    coded: u32,
}

impl BitsModel {
    /// A model that has seen nothing and expects `alpha`.
    pub fn new(alpha: f64) -> BitsModel {
        let log2_alpha = alpha.max(f64::MIN_POSITIVE).log2().clamp(-LOG2_ALPHA_BOUND, LOG2_ALPHA_BOUND);
        BitsModel { log2_alpha, steepness: 0.0, near: 0.0, line: Line::default(), coded: 0 }
    }

    /// The present α.
    pub fn alpha(&self) -> f64 {
        self.log2_alpha.exp2()
    }

    /// By how many octaves an octave bits fall beyond `1 / Qstep`.
    pub fn steepness(&self) -> f64 {
        self.steepness
    }

    /// Frames it learnt from.
    pub fn coded(&self) -> u32 {
        self.coded
    }

    /// Expected bits at a step of `2^octave`.
    pub fn bits(&self, complexity: f64, octave: f64) -> f64 {
        self.straight_bits(complexity, octave) / self.bend(octave).exp2()
    }

    /// At least [`BitsModel::bits`], and not fewer if the steepness was learnt wrongly: above the last quantiser none is
    /// believed.
    pub fn most_bits(&self, complexity: f64, octave: f64) -> f64 {
        self.straight_bits(complexity, octave) / self.bend(octave.min(self.near)).exp2()
    }

    /// The `log2 Qstep` at which `bits` are expected.
    pub fn octave(&self, complexity: f64, bits: f64) -> f64 {
        // off = (octave − near) + bend(octave), which rises in three straight pieces.
        let off = self.straight_octave(complexity, bits) - self.near;
        let within = off / (1.0 + self.steepness);
        let beyond = off - self.steepness * STEEP_WITHIN * off.signum();
        self.near + if within.abs() <= STEEP_WITHIN { within } else { beyond }
    }

    /// The `log2 Qstep` at which [`BitsModel::most_bits`] are `bits`.
    pub fn most_octave(&self, complexity: f64, bits: f64) -> f64 {
        let octave = self.octave(complexity, bits);
        if octave <= self.near { octave } else { self.straight_octave(complexity, bits) }
    }

    /// Forgets: the next frame replaces what was learnt.
    pub fn forget(&mut self) {
        self.coded = 0;
        self.steepness = 0.0;
        self.line = Line::default();
    }

    /// Learns from a frame that took `bits` at `2^octave`.
    pub fn learn(&mut self, complexity: f64, octave: f64, bits: f64) {
        let seen = (bits.max(LEAST_BITS) / complexity.max(LEAST_COMPLEXITY)).log2() + octave;
        if !seen.is_finite() {
            return;
        }
        let seen = seen.clamp(-LOG2_ALPHA_BOUND, LOG2_ALPHA_BOUND);
        let octave = octave.clamp(OCTAVES.0, OCTAVES.1);
        self.log2_alpha = if self.coded == 0 {
            seen
        } else {
            let expected = self.log2_alpha - self.bend(octave);
            let error = seen - expected;
            let learnt = if error > 0.0 { error } else { error * LEARNING };
            (expected + learnt.clamp(-LARGEST_STEP, LARGEST_STEP)).clamp(-LOG2_ALPHA_BOUND, LOG2_ALPHA_BOUND)
        };
        self.line.add(octave, seen);
        self.steepness = self.line.fall().clamp(0.0, STEEPEST);
        self.near = octave;
        self.coded = self.coded.saturating_add(1);
    }

    fn straight_bits(&self, complexity: f64, octave: f64) -> f64 {
        (self.log2_alpha - octave).exp2() * complexity.max(LEAST_COMPLEXITY)
    }

    fn straight_octave(&self, complexity: f64, bits: f64) -> f64 {
        self.log2_alpha + (complexity.max(LEAST_COMPLEXITY) / bits.max(LEAST_BITS)).log2()
    }

    /// What a quantiser at `octave` takes from the bits beyond `1 / Qstep`, octaves; negative below the last one.
    fn bend(&self, octave: f64) -> f64 {
        self.steepness * (octave - self.near).clamp(-STEEP_WITHIN, STEEP_WITHIN)
    }
}

/// The line through what was seen lately, `log2 α` over the octave, older frames counting less: means and central
/// moments, updated frame by frame.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
struct Line {
    weight: f64,
    mean_octave: f64,
    mean_alpha: f64,
    spread: f64,
    together: f64,
}

impl Line {
    fn add(&mut self, octave: f64, log2_alpha: f64) {
        let before = self.weight * REMEMBERED;
        self.weight = before + 1.0;
        let (x, y) = (octave - self.mean_octave, log2_alpha - self.mean_alpha);
        self.mean_octave += x / self.weight;
        self.mean_alpha += y / self.weight;
        let share = before / self.weight;
        self.spread = self.spread * REMEMBERED + x * x * share;
        self.together = self.together * REMEMBERED + x * y * share;
    }

    /// How steeply it falls.
    fn fall(&self) -> f64 {
        -self.together / (self.spread + LEVEL)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_frame_replaces_the_expectation_and_later_ones_move_it_half_way() {
        let mut model = BitsModel::new(0.5);
        model.learn(1000.0, 4.0, 1000.0 * 8.0 / 16.0);
        assert!((model.alpha() - 8.0).abs() < 1e-9);
        model.learn(1000.0, 4.0, 1000.0 * 2.0 / 16.0);
        assert!((model.alpha() - 4.0).abs() < 1e-9, "the geometric mean of 8 and 2: {}", model.alpha());
        assert!((model.bits(1000.0, 4.0) - 250.0).abs() < 1e-9);
        assert!((model.octave(1000.0, 250.0) - 4.0).abs() < 1e-9);
    }

    #[test]
    fn absurd_observations_leave_everything_finite() {
        let mut model = BitsModel::new(0.0);
        for (complexity, octave, bits) in [
            (0.0, 0.0, 0.0),
            (f64::INFINITY, 3.0, 5.0),
            (f64::NAN, 3.0, 5.0),
            (1e300, -1e300, 1e300),
            (5.0, 2.0, 1e300),
        ] {
            model.learn(complexity, octave, bits);
            assert!(model.alpha().is_finite() && model.alpha() > 0.0);
            assert!(model.octave(0.0, 0.0).is_finite() && model.bits(0.0, 0.0).is_finite());
        }
    }

    #[test]
    fn how_steeply_noise_falls_is_learnt_and_believed_only_where_it_asks_for_caution() {
        let mut model = BitsModel::new(0.4);
        // Bits fall with the fifth power of the step about 64.
        let real = |octave: f64| 2f64.powf(16.0 - 5.0 * (octave - 6.0));
        for qp in [38.0, 41.0, 39.0, 40.0, 41.0, 40.0, 39.0, 40.0] {
            let octave = (qp - 4.0) / 6.0;
            model.learn(1e5, octave, real(octave));
        }
        assert!((3.0..4.0).contains(&model.steepness()), "{}", model.steepness());
        // The plain model would miss both by 2.5.
        for octave in [36.0 / 6.0 - 2.0 / 6.0, 36.0 / 6.0 + 2.0 / 6.0] {
            let miss = model.bits(1e5, octave) / real(octave);
            assert!((0.7..1.45).contains(&miss), "{miss}");
            assert!((model.octave(1e5, model.bits(1e5, octave)) - octave).abs() < 1e-9);
            assert!((model.most_octave(1e5, model.most_bits(1e5, octave)) - octave).abs() < 1e-9);
        }
        assert_eq!(model.most_bits(1e5, 5.5), model.bits(1e5, 5.5));
        assert!(model.most_bits(1e5, 6.5) > 2.0 * model.bits(1e5, 6.5));
        // Far away it is the plain model again.
        assert!((model.bits(1e5, 1.0) / model.bits(1e5, 0.0) - 0.5).abs() < 1e-9);
    }

    #[test]
    fn frames_that_differ_by_chance_say_nothing_about_steepness() {
        let mut model = BitsModel::new(0.4);
        for (index, chance) in [1.0, 1.1, 0.9, 1.05, 0.95, 1.1, 0.92, 1.0].into_iter().enumerate() {
            let octave = 5.0 + (index % 2) as f64 / 6.0;
            model.learn(1e5, octave, 1e5 * chance / octave.exp2());
        }
        assert!(model.steepness() < 0.3, "{}", model.steepness());
    }
}
