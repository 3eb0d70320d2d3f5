//! Who names openh264's quantiser: its own rate control, or the guard while that would exceed the bitrate.
//!
//! openh264 raises the quantiser of an IDR to 34–40 at the most and that of a P picture by five a frame, whatever the
//! content: with frame skipping off, hard content exceeds the bitrate. It takes a quantiser from outside only while its
//! rate control is off, so the guard switches that off for the frames it takes over. The switch leaves no trace in the
//! stream but the quantiser: no IDR, no parameter set. What the library learnt before stays as it was.

use super::openh264_library::Library;
use crate::error::EncoderError;
use crate::ratecontrol::controller::CodedFrame;
use crate::ratecontrol::guard::{Guard, Habits, Verdict};
use crate::ratecontrol::satd::{Complexity, ComplexityMeter};
use crate::settings::{EncoderSettings, Gop, RateControl};
use openh264_sys2 as sys;
use shm_protocol::pixels::PixelsRead;
use std::ffi::c_int;

/// Limits of P pictures: `GOM_MIN_QP_MODE` of the library, and `iMaxQp` as this backend sets it.
pub const P_QP: (u8, u8) = (12, 51);
/// `LAST_FRAME_QP_RANGE_LOWER_MODE1` and `…_UPPER_MODE1`: furthest from the last picture's QP.
const P_STEPS: (u8, u8) = (3, 5);
/// `IDR_BITRATE_RATIO`.
const IDR_FRAMES: u8 = 4;

/// How the library chooses (`RcCalculateIdrQp`, `RcCalculatePictureQp`): by bits per pixel, in four classes of size.
fn habits(settings: &EncoderSettings) -> Habits {
    /// Largest picture of a class, its steps of bits per pixel, and the first IDR's QP in each.
    const CLASSES: [(u64, [f64; 4], [u8; 5]); 4] = [
        (28_800, [0.25, 0.5, 0.75, 1.0], [34, 28, 26, 24, 22]),
        (115_200, [0.1, 0.2, 0.3, 0.4], [36, 30, 28, 26, 24]),
        (460_800, [0.03, 0.05, 0.09, 0.13], [36, 32, 30, 28, 26]),
        (u64::MAX, [0.01, 0.03, 0.06, 0.1], [36, 34, 32, 30, 28]),
    ];
    const IDR_RANGE: [(u8, u8); 5] = [(28, 40), (25, 37), (24, 36), (23, 35), (22, 34)];
    let pixels = u64::from(settings.format.width) * u64::from(settings.format.height);
    let per_pixel = f64::from(settings.bitrate_kbps) * 1000.0 / settings.format.fps.as_f64() / pixels as f64;
    let class = CLASSES.iter().find(|(largest, ..)| pixels <= *largest).unwrap_or(&CLASSES[3]);
    let step = class.1.iter().position(|step| per_pixel <= *step).unwrap_or(class.1.len());
    let idr_qp = IDR_RANGE[step];
    Habits {
        first_idr_qp: class.2[step].clamp(idr_qp.0, idr_qp.1),
        idr_qp,
        idr_frames: IDR_FRAMES,
        p_steps: P_STEPS,
        p_qp: P_QP,
    }
}

/// What no second may exceed by more than the tolerance: the bitrate, or with VBR its peak.
fn limit_kbps(settings: &EncoderSettings) -> u32 {
    if settings.rate_control == RateControl::Variable { settings.ceiling_kbps() } else { settings.bitrate_kbps }
}

/// Tells the library its quantiser, or to choose it itself.
#[derive(Debug)]
pub struct Quantiser {
    params: Box<sys::SEncParamExt>,
    /// The mode it was opened in.
    own_mode: sys::RC_MODES,
    /// The quantiser it was told; `None` while it does as it was opened.
    told: Option<u8>,
}

impl Quantiser {
    /// For a library that was opened with `params`.
    pub fn new(params: &sys::SEncParamExt) -> Quantiser {
        Quantiser { params: Box::new(*params), own_mode: params.iRCMode, told: None }
    }

    /// The next frames take `qp`.
    pub fn tell(&mut self, library: &mut Library, qp: u8) -> Result<(), EncoderError> {
        if self.told == Some(qp) {
            return Ok(());
        }
        self.params.iRCMode = sys::RC_OFF_MODE;
        self.params.sSpatialLayers[0].iDLayerQp = c_int::from(qp);
        library.set_params(&self.params)?;
        // The parameters change the mode's name, the option its functions.
        if self.told.is_none() && self.own_mode != sys::RC_OFF_MODE {
            library.set_rate_control(sys::RC_OFF_MODE)?;
        }
        self.told = Some(qp);
        Ok(())
    }

    /// The library chooses the next frames' quantiser by its own rate control.
    fn let_go(&mut self, library: &mut Library) -> Result<(), EncoderError> {
        if self.told.take().is_none() {
            return Ok(());
        }
        self.params.iRCMode = self.own_mode;
        library.set_params(&self.params)?;
        library.set_rate_control(self.own_mode)
    }

    fn set_bitrate(&mut self, bits_per_s: c_int) {
        self.params.iTargetBitrate = bits_per_s;
        self.params.sSpatialLayers[0].iSpatialBitrate = bits_per_s;
    }
}

/// The library's rate control with the guard beside it.
#[derive(Debug)]
pub struct GuardedRate {
    guard: Guard,
    meter: ComplexityMeter,
    quantiser: Quantiser,
    gop: Gop,
    /// Frames since the last IDR, that one included.
    since_idr: u32,
    /// Of the frame judged last.
    complexity: Complexity,
}

impl GuardedRate {
    /// The guard of a library that was opened with `params` for `settings`.
    pub fn new(settings: &EncoderSettings, params: &sys::SEncParamExt) -> Result<GuardedRate, EncoderError> {
        let format = &settings.format;
        let pixels = u64::from(format.width) * u64::from(format.height);
        let guard = Guard::new(habits(settings), limit_kbps(settings), format.fps.as_f64(), pixels)?;
        let meter = ComplexityMeter::new(format)?;
        let (quantiser, gop) = (Quantiser::new(params), settings.gop);
        Ok(GuardedRate { guard, meter, quantiser, gop, since_idr: 0, complexity: Complexity::default() })
    }

    /// Decides about the next frame and tells the library.
    pub fn begin(
        &mut self,
        library: &mut Library,
        pixels: &PixelsRead<'_>,
        asked_idr: bool,
    ) -> Result<Verdict, EncoderError> {
        let due = matches!(self.gop, Gop::Frames(frames) if self.since_idr >= frames);
        let is_idr = asked_idr || due || self.since_idr == 0;
        // A frame of another format never gets here.
        self.complexity = self.meter.measure(pixels).unwrap_or_default();
        let before = self.guard.in_charge();
        let verdict = self.guard.judge(self.complexity, is_idr);
        if before != self.guard.in_charge() {
            tracing::debug!(guard = self.guard.in_charge(), "Who names the quantiser has changed");
        }
        match verdict {
            Verdict::Library => self.quantiser.let_go(library)?,
            Verdict::Qp(qp) => self.quantiser.tell(library, qp)?,
            Verdict::LeaveOut => {}
        }
        Ok(verdict)
    }

    /// Takes note of what became of the frame.
    pub fn coded(&mut self, library: &mut Library, bits: u64, idr: bool, verdict: Verdict) -> Result<(), EncoderError> {
        let qp = match verdict {
            Verdict::Qp(qp) => qp,
            _ => library.last_qp()?,
        };
        self.since_idr = if idr { 1 } else { self.since_idr.saturating_add(1) };
        self.guard.coded(self.complexity, CodedFrame { bits, qp, idr }, verdict);
        Ok(())
    }

    /// Takes note that the frame was left out.
    pub fn left_out(&mut self) {
        self.guard.left_out();
    }

    /// Whether frames that fit at no quantiser are left out.
    pub fn leave_frames_out(&mut self, leave_out: bool) {
        self.guard.leave_frames_out(leave_out);
    }

    /// Follows the new bitrate of `settings`, of which the library was told `library_bits_per_s`.
    pub fn set_bitrate(&mut self, settings: &EncoderSettings, library_bits_per_s: c_int) -> Result<(), EncoderError> {
        self.quantiser.set_bitrate(library_bits_per_s);
        self.guard.set_bitrate(limit_kbps(settings))
    }

    /// The guard, to look at.
    pub fn guard(&self) -> &Guard {
        &self.guard
    }
}
