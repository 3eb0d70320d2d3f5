//! The guard: holds a library's rate control to its bitrate where it would exceed it.
//!
//! The library goes on by itself for as long as what it is about to do fits: no second may hold more than the bitrate
//! and a tolerance. What it is about to do is predicted from the complexity of the frame and from how the library is
//! known to choose its quantiser ([`Habits`]). When the prediction does not fit, the guard takes over: it names the
//! quantiser frame by frame, never a finer one than the library would use, until the library's own choice has fitted
//! for half a second. A library that has overspent by more than it pays back within a few frames stays under control:
//! it would pay a second time for what the guard has made good. While the library keeps its bitrate the guard only looks on, and the stream is the library's to
//! the bit.

use super::controller::{CodedFrame, RateController};
use super::mode::{ModeConfig, RateConfig};
use super::model::QpScale;
use super::satd::Complexity;
use crate::error::EncoderError;

/// How far any one second may exceed the bitrate.
pub const TOLERANCE: f64 = 0.1;
/// The guard keeps this much of the tolerance to itself, for frames that come out larger than predicted.
const KEPT_BACK: f64 = 0.01;
/// What each later frame of a second must still be able to take, of a frame's worth, for the library to have its way
/// with this one: what the coarsest quantiser needs, and something for an IDR that is asked for meanwhile. The library
/// itself goes down to 0.55 after a large frame.
const LEAST_SHARE: f64 = 0.3;
/// The bucket of the guard's own controller, ms: half a second, as an IDR is spread over by the pacer at the worst.
const BUCKET_MS: u32 = 500;
/// How long the library's own choice must have fitted before it is given its way again, s.
const CALM_S: f64 = 0.5;

/// Most that the library may owe when it is let go, frames' worth: it pays back half a frame's worth a frame.
const DEBT_FRAMES: f64 = 5.0;
/// When frames are left out, others leave so much of a second to an IDR, which is never left out.
const LEFT_FOR_IDR: f64 = 0.12;
/// Bits at a QP less, `2^(1/6)` times as many, rounded up.
const ONE_QP: f64 = 1.13;

/// How a library chooses its quantiser.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Habits {
    /// The quantiser of its first IDR.
    pub first_idr_qp: u8,
    /// Least and largest quantiser of later IDRs.
    pub idr_qp: (u8, u8),
    /// An IDR is given so many frames' worth of bits.
    pub idr_frames: u8,
    /// Furthest a P picture goes below the last picture's quantiser, and above it.
    pub p_steps: (u8, u8),
    /// Least and largest quantiser of P pictures.
    pub p_qp: (u8, u8),
}

/// Who codes the next frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The library, by itself.
    Library,
    /// The library, with this quantiser.
    Qp(u8),
    /// Nobody: the frame is left out.
    LeaveOut,
}

/// Looks after a library's bitrate.
#[derive(Debug, Clone)]
pub struct Guard {
    controller: RateController,
    habits: Habits,
    leaves_out: bool,
    in_charge: bool,
    /// The library's rate control has coded an IDR of its own: before that it cannot go on with a P picture.
    library_began: bool,
    /// The quantiser of the last picture it chose itself: it goes on from there.
    library_qp: Option<u8>,
    /// The one it would have got to, had it gone on.
    imagined_qp: Option<u8>,
    calm_frames: u32,
    /// What the library has spent above the bitrate and will pay back once it is let go, bits.
    debt_bits: f64,
    took_over: u64,
}

impl Guard {
    /// A guard before the first frame of a stream of `pixels` a frame at `kbps`. It leaves no frame out.
    ///
    /// # Errors
    /// [`EncoderError::Setting`] for a bitrate or frame rate out of range.
    pub fn new(habits: Habits, kbps: u32, fps: f64, pixels: u64) -> Result<Guard, EncoderError> {
        let controller = RateController::new(RateConfig {
            mode: ModeConfig::Cbr { kbps },
            scale: QpScale::H26x,
            fps,
            pixels,
            vbv_ms: BUCKET_MS,
            min_qp: habits.p_qp.0,
            max_qp: QpScale::H26x.max_qp(),
            window_tolerance: Some(TOLERANCE - KEPT_BACK),
        })?;
        Ok(Guard {
            controller,
            habits,
            leaves_out: false,
            in_charge: false,
            library_began: false,
            library_qp: None,
            imagined_qp: None,
            calm_frames: 0,
            debt_bits: 0.0,
            took_over: 0,
        })
    }

    /// Whether a frame that fits at no quantiser is left out, unless it must be an IDR.
    pub fn leave_frames_out(&mut self, leave_out: bool) {
        self.leaves_out = leave_out;
    }

    /// Decides about the next frame. To be followed by [`Guard::coded`] or [`Guard::left_out`].
    pub fn judge(&mut self, complexity: Complexity, is_idr: bool) -> Verdict {
        let ours = self.controller.next_qp(complexity, is_idr);
        let theirs = self.library_choice(complexity, is_idr, self.library_qp);
        let expected = self.controller.expected_bits(complexity, is_idr, theirs);
        let fits = expected <= self.controller.window_room_bits(LEAST_SHARE);
        if !self.in_charge {
            if fits {
                return Verdict::Library;
            }
            self.in_charge = true;
            self.imagined_qp = self.library_qp;
            self.calm_frames = 0;
            self.took_over += 1;
        } else {
            // A P picture must fit its own share, not only what is left of the second; a QP more is no matter.
            let calm = fits && (is_idr || expected <= self.controller.frame_bits() * ONE_QP);
            self.calm_frames = if calm { self.calm_frames.saturating_add(1) } else { 0 };
            let patience = CALM_S * self.controller.config().fps;
            // The guard has paid the library's debts by small frames of its own; the library would pay them again.
            let free = self.debt_bits <= self.controller.frame_bits() * DEBT_FRAMES;
            if f64::from(self.calm_frames) >= patience && free && (is_idr || self.library_began) {
                self.in_charge = false;
                return Verdict::Library;
            }
        }
        let coarsest = self.controller.config().max_qp;
        if self.leaves_out && !is_idr {
            let least = self.controller.expected_bits(complexity, is_idr, coarsest);
            let for_idr = LEFT_FOR_IDR * self.controller.frame_bits() * self.controller.config().fps;
            if least > self.controller.window_room_bits(0.0) - for_idr {
                return Verdict::LeaveOut;
            }
        }
        let imagined = self.library_choice(complexity, is_idr, self.imagined_qp);
        self.imagined_qp = Some(imagined);
        Verdict::Qp(ours.max(imagined.saturating_sub(1)))
    }

    /// Tells what became of the frame of that complexity; `verdict` is what was decided.
    pub fn coded(&mut self, complexity: Complexity, frame: CodedFrame, verdict: Verdict) {
        if verdict == Verdict::Library {
            self.library_began |= frame.idr;
            self.library_qp = Some(frame.qp);
            self.debt_bits = (self.debt_bits + frame.bits as f64 - self.controller.frame_bits()).max(0.0);
        }
        self.controller.coded(complexity, frame);
    }

    /// Tells that the frame was left out, by whomever.
    pub fn left_out(&mut self) {
        self.controller.left_out();
    }

    /// Changes the bitrate, kb/s.
    ///
    /// # Errors
    /// [`EncoderError::Setting`] when it is out of range.
    pub fn set_bitrate(&mut self, kbps: u32) -> Result<(), EncoderError> {
        let before = self.controller.frame_bits();
        self.controller.set_bitrate(kbps, 0)?;
        self.debt_bits *= self.controller.frame_bits() / before;
        Ok(())
    }

    /// How often it took over.
    pub fn took_over(&self) -> u64 {
        self.took_over
    }

    /// Whether it names the quantiser at present.
    pub fn in_charge(&self) -> bool {
        self.in_charge
    }

    /// Its controller, to look at.
    pub fn controller(&self) -> &RateController {
        &self.controller
    }

    /// The quantiser the library would use by itself after a picture of `last`; `None`: for its first.
    fn library_choice(&self, complexity: Complexity, is_idr: bool, last: Option<u8>) -> u8 {
        let worth = self.controller.frame_bits();
        let Some(last) = last else { return self.habits.first_idr_qp };
        if is_idr {
            let wanted = self.controller.qp_for(complexity, true, worth * f64::from(self.habits.idr_frames));
            return wanted.clamp(self.habits.idr_qp.0, self.habits.idr_qp.1);
        }
        let (down, up) = self.habits.p_steps;
        let wanted = self.controller.qp_for(complexity, false, worth);
        let near = wanted.clamp(last.saturating_sub(down), last.saturating_add(up));
        near.clamp(self.habits.p_qp.0, self.habits.p_qp.1)
    }
}
