//! The controller: which quantiser the next frame gets.
//!
//! Per frame it is asked ([`RateController::next_qp`]) and told once what came of it ([`RateController::coded`] or
//! [`RateController::left_out`]), in the order of the frames. It works in octaves, `log2 Qstep`. Nothing is allocated after [`RateController::new`]; every quotient has a divisor that is bounded
//! away from zero.

use super::bucket::{LeakyBucket, Window};
use super::mode::{ModeConfig, RateConfig, check_rates};
use super::model::QpScale;
use super::prediction::{MARGIN, Predictor, QP, Task};
use super::satd::Complexity;
use crate::error::EncoderError;

/// Most that the quantiser of a P picture rises or falls from one frame to the next while no bound asks for more: rises
/// are quicker, because a late rise costs the bound and a late fall only quality. From 2 to 8 Mb/s are two octaves, so
/// six frames, back again three.
const STEP_UP: f64 = 4.0 * QP;
const STEP_DOWN: f64 = 2.0 * QP;
/// The same for VBR and quality modes, where an even quality is the aim.
const GENTLE_STEP_UP: f64 = 2.0 * QP;
const GENTLE_STEP_DOWN: f64 = 1.0 * QP;
/// An IDR is coded finer than the P pictures before it by this much: they all refer to it.
const IDR_FINER: f64 = 2.0 * QP;
/// [`MARGIN`] while the kind of frame was never coded: the expectation before the first frame is that uncertain.
const FIRST_MARGIN: f64 = 4.0;
/// Where CBR holds the level of the bucket, of its size: high enough that a frame that came out small does not leave
/// the channel idle, low enough to leave nine tenths for IDR pictures.
const SET_POINT: f64 = 0.1;
/// What CBR makes good of bits that the channel was not given, of the size of the bucket: enough that a quantiser between
/// two numbers of the scale is held on average, too little to be seen as a burst.
const CREDIT: f64 = 0.2;
/// No IDR takes more than this of the bucket in CBR: what it takes must be saved by the frames behind it.
const IDR_SHARE: f64 = 0.5;
/// The first IDR, in frames' worth of the bitrate. Seven frames' worth on top are paid back within a second at 30 fps.
const FIRST_IDR_FRAMES: f64 = 8.0;
/// P pictures aim at this share of a frame's worth at the least and at the most, whatever the bucket says.
const P_SHARE: (f64, f64) = (0.3, 3.0);
/// What later frames are promised of a frame's worth when a large one is let through the window.
const RESERVE: f64 = 0.5;
/// VBR evens out its average over this time, s; it may save up or overdraw half of it.
const VBR_HORIZON_S: f64 = 4.0;
/// How long VBR may step as far as CBR after a new bitrate, s.
const HURRY_S: f64 = 0.5;
/// Time constant of the mean complexity of VBR and ICQ, s.
const MEAN_S: f64 = 2.0;
/// How much of a frame's deviation from the mean complexity ICQ takes from its quality (x264's `1 − qcomp` is 0.4), and
/// the most of it, octaves.
const MASKING: f64 = 0.3;
const MASKING_BOUND: f64 = 0.5;

/// What became of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CodedFrame {
    /// Its size, bits.
    pub bits: u64,
    /// The quantiser it was coded with (the mean over the picture), on the scale of the controller.
    pub qp: u8,
    /// Whether it became an IDR.
    pub idr: bool,
}

/// Chooses the quantiser of every frame.
#[derive(Debug, Clone)]
pub struct RateController {
    config: RateConfig,
    bucket: LeakyBucket,
    window: Window,
    predictor: Predictor,
    /// Octave of the last P picture.
    last: Option<f64>,
    /// CBR: the level of the bucket, below zero by what the channel was not given lately. Where a second binds there is
    /// no such credit: what was saved is room for an IDR.
    balance_bits: f64,
    /// VBR: bits spent above the average.
    overdrawn_bits: f64,
    /// Mean of `log2(complexity)` of P pictures.
    mean: Option<f64>,
    frames: u64,
    /// Bits of frames that are in the encoder, beyond what the channel takes meanwhile.
    in_flight_bits: f64,
    /// Frames for which VBR may step as far as CBR: it has a new bitrate to get to.
    hurry_frames: u32,
}

impl RateController {
    /// A controller before its first frame.
    ///
    /// # Errors
    /// [`EncoderError::Setting`] naming the first value out of range.
    pub fn new(config: RateConfig) -> Result<RateController, EncoderError> {
        config.check()?;
        let (size, drain) = bucket_of(&config);
        Ok(RateController {
            bucket: LeakyBucket::new(size, drain),
            window: Window::new(config.fps, config.window_tolerance.unwrap_or(0.0)),
            predictor: Predictor::new(config.pixels),
            last: None,
            balance_bits: 0.0,
            overdrawn_bits: 0.0,
            mean: None,
            in_flight_bits: 0.0,
            frames: 0,
            hurry_frames: 0,
            config,
        })
    }

    /// The quantiser of the next frame, within the bounds of the configuration.
    pub fn next_qp(&mut self, complexity: Complexity, is_idr: bool) -> u8 {
        let scale = self.config.scale;
        let task = self.predictor.task(complexity, is_idr);
        let (octave, bounded) = match self.config.mode {
            ModeConfig::Cqp { qp } => return qp,
            ModeConfig::Cbr { .. } => (self.constant(&task, is_idr), true),
            ModeConfig::Vbr { .. } => (self.variable(&task, is_idr), true),
            ModeConfig::CappedVbr { qp, .. } => (self.quality(qp, &task, is_idr), true),
            ModeConfig::ConstantQuality { quality } => (self.quality(quality, &task, is_idr), false),
        };
        let wanted = scale.nearest(octave);
        let least = if bounded { scale.at_least(task.most_octave(self.cap_bits(&task, is_idr))) } else { 0 };
        wanted.max(least).clamp(self.config.min_qp, self.config.max_qp)
    }

    /// Tells what the frames that are still in the encoder, `frames` of them, are expected to take in all.
    pub fn set_in_flight(&mut self, frames: u32, expected_bits: f64) {
        self.in_flight_bits = (expected_bits - f64::from(frames) * self.bucket.drain_bits()).max(0.0);
    }

    /// Tells what became of the oldest frame not told of yet: its complexity as measured, and how it was coded.
    pub fn coded(&mut self, complexity: Complexity, frame: CodedFrame) {
        self.predictor.coded(complexity, frame, self.config.scale);
        if !frame.idr {
            let weight = (1.0 / (MEAN_S * self.config.fps)).clamp(0.0, 1.0);
            let log2 = self.predictor.work(complexity.inter).log2();
            self.mean = Some(self.mean.map_or(log2, |mean| mean + (log2 - mean) * weight));
            self.last = Some(self.config.scale.octave(frame.qp));
        }
        self.passed(frame.bits as f64);
    }

    /// Tells that the oldest frame not told of yet was left out.
    pub fn left_out(&mut self) {
        self.passed(0.0);
    }

    /// Changes bitrate and peak, kb/s, from the next frame on; a peak of 0 leaves it, raised to the bitrate if need be.
    /// What waits in the bucket goes on waiting.
    ///
    /// # Errors
    /// [`EncoderError::Setting`] when the mode holds no bitrate or the value is out of range.
    pub fn set_bitrate(&mut self, kbps: u32, peak: u32) -> Result<(), EncoderError> {
        let mode = match self.config.mode {
            ModeConfig::Cbr { .. } => ModeConfig::Cbr { kbps },
            ModeConfig::Vbr { peak_kbps, .. } => {
                ModeConfig::Vbr { kbps, peak_kbps: if peak == 0 { peak_kbps.max(kbps) } else { peak } }
            }
            ModeConfig::CappedVbr { qp, .. } => {
                ModeConfig::CappedVbr { qp, peak_kbps: if peak == 0 { kbps } else { peak } }
            }
            ModeConfig::Cqp { .. } | ModeConfig::ConstantQuality { .. } => {
                return Err(EncoderError::Setting {
                    setting: "bitrate_kbps",
                    given: kbps.to_string(),
                    allowed: "nothing while rate_control holds the quality".to_owned(),
                });
            }
        };
        check_rates(&mode)?;
        self.config.mode = mode;
        let (size, drain) = bucket_of(&self.config);
        self.bucket.resize(size, drain);
        self.overdrawn_bits = 0.0;
        self.hurry_frames = (self.config.fps * HURRY_S).clamp(1.0, 1000.0) as u32;
        Ok(())
    }

    /// The bucket.
    pub fn bucket(&self) -> &LeakyBucket {
        &self.bucket
    }

    /// What it was made with, the bitrates as set last.
    pub fn config(&self) -> &RateConfig {
        &self.config
    }

    /// Frames coded or left out.
    pub fn frames(&self) -> u64 {
        self.frames
    }

    /// A frame's worth of the bitrate (of the peak where there is none), bits.
    pub fn frame_bits(&self) -> f64 {
        let kbps = match self.config.mode {
            ModeConfig::Cbr { kbps } | ModeConfig::Vbr { kbps, .. } => kbps,
            ModeConfig::CappedVbr { peak_kbps, .. } => peak_kbps,
            ModeConfig::Cqp { .. } | ModeConfig::ConstantQuality { .. } => 0,
        };
        (f64::from(kbps) * 1000.0 / self.config.fps).max(1.0)
    }

    /// Bits that a frame is expected to take at `qp`, rather too many than too few.
    pub fn expected_bits(&self, complexity: Complexity, is_idr: bool, qp: u8) -> f64 {
        self.predictor.task(complexity, is_idr).most_bits(self.config.scale.octave(qp))
    }

    /// The quantiser at which a frame is expected to take `bits`.
    pub fn qp_for(&self, complexity: Complexity, is_idr: bool, bits: f64) -> u8 {
        let octave = self.predictor.task(complexity, is_idr).octave(bits);
        self.config.scale.nearest(octave).clamp(self.config.min_qp, self.config.max_qp)
    }

    /// Largest next frame, bits, that leaves every later frame of the window `reserve` of a frame's worth. Negative when
    /// the limit is broken already.
    pub fn window_room_bits(&self, reserve: f64) -> f64 {
        self.window.room(reserve) * self.frame_bits()
    }

    /// Most bits the next frame may be expected to take.
    fn cap_bits(&self, task: &Task, is_idr: bool) -> f64 {
        let margin = if task.model.coded() == 0 { FIRST_MARGIN } else { MARGIN };
        let mut cap = (self.bucket.room_bits() - self.in_flight_bits) / margin;
        if self.config.window_tolerance.is_some() {
            cap = cap.min(self.window_room_bits(RESERVE) / margin);
        }
        if is_idr && matches!(self.config.mode, ModeConfig::Cbr { .. }) {
            cap = cap.min(self.bucket.size_bits() * IDR_SHARE);
        }
        // A bucket that is full already asks for the coarsest there is.
        cap.max(1.0)
    }

    fn constant(&self, task: &Task, is_idr: bool) -> f64 {
        let worth = self.frame_bits();
        if is_idr {
            return match self.last {
                Some(last) => last - IDR_FINER,
                None => task.octave(worth * FIRST_IDR_FRAMES),
            };
        }
        let size = self.bucket.size_bits();
        // Half the bucket's own time to come back to the set point, at least two frames.
        let horizon = (size / worth / 2.0).max(2.0);
        let back = (size * SET_POINT - self.balance_bits - self.in_flight_bits) / horizon;
        let target = (worth + back).clamp(worth * P_SHARE.0, worth * P_SHARE.1);
        // Noise grows by a third and more with every QP less: where a second binds, it is felt for one at a time.
        let down = if self.config.window_tolerance.is_some() { GENTLE_STEP_DOWN } else { STEP_DOWN };
        self.stepped(task.octave(target), down, STEP_UP)
    }

    fn variable(&self, task: &Task, is_idr: bool) -> f64 {
        let worth = self.frame_bits();
        if is_idr {
            return match self.last {
                Some(last) => last - IDR_FINER,
                None => task.octave(worth * FIRST_IDR_FRAMES),
            };
        }
        let back = self.overdrawn_bits / (VBR_HORIZON_S * self.config.fps).max(1.0);
        let target = (worth - back).clamp(worth * P_SHARE.0, worth * P_SHARE.1);
        // By the mean complexity, not the frame's own: bits follow the content, the quality stays.
        let work = if task.like_idr { task.work } else { self.mean.map_or(task.work, f64::exp2) };
        let (down, up) = if self.hurry_frames > 0 { (STEP_DOWN, STEP_UP) } else { (GENTLE_STEP_DOWN, GENTLE_STEP_UP) };
        self.stepped(task.model.octave(work, target), down, up)
    }

    fn quality(&self, qp: u8, task: &Task, is_idr: bool) -> f64 {
        let base = self.config.scale.octave(qp);
        if is_idr {
            return base - IDR_FINER / 2.0;
        }
        if task.like_idr {
            return base;
        }
        let deviation = self.mean.map_or(0.0, |mean| task.work.log2() - mean);
        base + (deviation * MASKING).clamp(-MASKING_BOUND, MASKING_BOUND)
    }

    fn stepped(&self, octave: f64, down: f64, up: f64) -> f64 {
        match self.last {
            Some(last) => octave.clamp(last - down, last + up),
            None => octave,
        }
    }

    fn passed(&mut self, bits: f64) {
        let worth = self.frame_bits();
        self.bucket.frame(bits);
        let credit = if self.config.window_tolerance.is_some() { 0.0 } else { CREDIT };
        let least = -self.bucket.size_bits() * credit;
        self.balance_bits = (self.balance_bits + bits - self.bucket.drain_bits()).max(least);
        self.window.push(bits / worth);
        let bound = worth * VBR_HORIZON_S * self.config.fps / 2.0;
        let overdrawn_bits = (self.overdrawn_bits + bits - worth).clamp(-bound, bound);
        // On the way to a new bitrate nothing is owed: the old one was right until a moment ago.
        self.overdrawn_bits = if self.hurry_frames > 0 { 0.0 } else { overdrawn_bits };
        self.frames = self.frames.saturating_add(1);
        self.hurry_frames = self.hurry_frames.saturating_sub(1);
    }
}

/// Size and drain of the bucket: VBR and capped VBR fill a channel of their peak.
fn bucket_of(config: &RateConfig) -> (f64, f64) {
    let kbps = match config.mode {
        ModeConfig::Cbr { kbps } => kbps,
        ModeConfig::Vbr { peak_kbps, .. } | ModeConfig::CappedVbr { peak_kbps, .. } => peak_kbps,
        ModeConfig::Cqp { .. } | ModeConfig::ConstantQuality { .. } => 0,
    };
    (f64::from(kbps) * f64::from(config.vbv_ms), f64::from(kbps) * 1000.0 / config.fps)
}

/// The numbers of [`QpScale`] a configuration may use when it names none.
pub(super) fn default_bounds(scale: QpScale) -> (u8, u8) {
    match scale {
        // Below 10 live video only spends bits on noise of the camera.
        QpScale::H26x => (10, 51),
        // The same step: 16 / 8 = 2, and 2^((10 − 4) / 6) = 2.
        QpScale::Av1 => (9, 255),
    }
}
