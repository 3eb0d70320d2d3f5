//! One session at work: device, encoder, input; and the calls that are made for every frame.
#![expect(unsafe_code, reason = "calls the runtime")]

use super::buffers::{Ext, Params};
use super::input::Input;
use super::library::CURE;
use super::negotiate::{Agreed, Fault, actual, changes, fault, negotiate, query};
use super::params::{OFF, ON, check_tiles, codec_id, frame_size};
use super::rate;
use super::session::Session;
use crate::backends::intel::display::{Display, NoDisplay};
use crate::error::EncoderError;
use crate::settings::EncoderSettings;
use onevpl_sys as vpl;
use onevpl_sys::{mfxBitstream, mfxEncodeCtrl, mfxFrameSurface1, mfxStatus, mfxSyncPoint};
use std::ptr;
use std::sync::Arc;

/// How a session is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct How {
    /// By the backend's name: an implementation that works on the CPU is taken too.
    pub asked_for: bool,
    /// Frames with a descriptor are imported.
    pub import: bool,
}

/// A session, its device and its encoder. The order of the fields is the order of their end: encoder and session
/// first, then the surfaces, then the device.
#[derive(Debug)]
pub struct Engine {
    session: Session,
    /// Where frames go in.
    pub input: Input,
    params: Params,
    actual: Params,
    notes: Vec<String>,
    surfaces: usize,
}

/// The outcome of a change of the bitrate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RateChange {
    /// The stream goes on.
    Seamless,
    /// A new sequence begins: the next frame is an IDR.
    NewSequence,
}

impl Engine {
    /// Opens a session for these settings.
    ///
    /// # Errors
    /// [`EncoderError::Unavailable`] where there is no implementation or no device, [`EncoderError::Setting`] and its
    /// like for what the device does not do, [`EncoderError::DeviceLost`] when it is lost already.
    pub fn open(settings: &EncoderSettings, how: How) -> Result<Engine, EncoderError> {
        match Engine::open_with(settings, how, true) {
            // A runtime that takes no surfaces may take pointers.
            Err((Fault::Refused(EncoderError::Library { call, code, .. }), true)) => {
                tracing::info!(call, code, "The runtime takes no frames in video memory");
                Engine::open_with(settings, how, false).map_err(|(fault, _)| fault)
            }
            other => other.map_err(|(fault, _)| fault),
        }
        .map_err(|fault| match fault {
            Fault::Refused(error) => error,
            Fault::Lost(reason) => EncoderError::DeviceLost { backend: super::NAME, reason },
        })
    }

    /// The error says beside the fault whether frames were to go in by surfaces.
    fn open_with(settings: &EncoderSettings, how: How, surfaces: bool) -> Result<Engine, (Fault, bool)> {
        let plain = |error: EncoderError| (Fault::Refused(error), false);
        let unavailable = |reason: String| {
            plain(EncoderError::Unavailable { backend: super::NAME.to_owned(), reason, cure: CURE.to_owned() })
        };
        let codec = codec_id(settings.codec).map_err(plain)?;
        let mut session = Session::open(codec, settings.codec.name(), how.asked_for).map_err(unavailable)?;
        check_size(&session, settings).map_err(plain)?;
        let mut input = choose_input(&mut session, settings, how, surfaces).map_err(|error| match error {
            InputError::Setting(error) => plain(error),
            InputError::Device(missing) => plain(missing.unavailable(super::NAME)),
        })?;
        if let Input::Video(video) = &mut input {
            // SAFETY: an open session; the callbacks live as long as the input, which outlives the session.
            let status =
                unsafe { session.vpl().MFXVideoCORE_SetFrameAllocator(session.raw(), video.allocator.callbacks()) };
            if status < vpl::MFX_ERR_NONE {
                drop(session);
                drop(input);
                return Err((fault("MFXVideoCORE_SetFrameAllocator", status), true));
            }
        }
        let video = input.is_video();
        // On failure, too, the session ends before its surfaces and its device; locals would go the other way round.
        let agreed = match negotiate(&mut session, settings, video) {
            Ok(agreed) => agreed,
            Err(fault) => {
                drop(session);
                drop(input);
                return Err((fault, video));
            }
        };
        let Agreed { params, actual, notes, surfaces } = agreed;
        input.meet(&mut session);
        Ok(Engine { session, input, params, actual, notes, surfaces })
    }

    /// The session.
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// What the runtime works with.
    pub fn actual(&self) -> &Params {
        &self.actual
    }

    /// What the runtime changed or refused, for people.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Surfaces the runtime asks for.
    pub fn surfaces(&self) -> usize {
        self.surfaces
    }

    /// Hands in a frame, or none to bring out what is inside.
    ///
    /// # Safety
    /// The pointers are null or live and stay where they are until the sync point was waited for or the session has
    /// ended.
    pub unsafe fn submit(
        &mut self,
        control: *mut mfxEncodeCtrl,
        surface: *mut mfxFrameSurface1,
        stream: *mut mfxBitstream,
    ) -> (mfxStatus, mfxSyncPoint) {
        let mut sync = ptr::null_mut();
        // SAFETY: an open session, and pointers as the caller promises.
        let status = unsafe {
            self.session.vpl().MFXVideoENCODE_EncodeFrameAsync(self.session.raw(), control, surface, stream, &mut sync)
        };
        (status, sync)
    }

    /// Waits up to `wait_ms` for a sync point.
    pub fn sync(&mut self, sync: mfxSyncPoint, wait_ms: u32) -> mfxStatus {
        // SAFETY: an open session and a sync point it gave.
        unsafe { self.session.vpl().MFXVideoCORE_SyncOperation(self.session.raw(), sync, wait_ms) }
    }

    /// Stops what is at work and begins a new sequence with the same parameters.
    ///
    /// # Errors
    /// What the runtime said.
    pub fn restart(&mut self) -> Result<(), Fault> {
        let params = self.params;
        self.reset(params, ON)
    }

    fn reset(&mut self, mut params: Params, new_sequence: u16) -> Result<(), Fault> {
        params.attach(Ext::Reset);
        params.ext.reset.StartNewSequence = new_sequence;
        // SAFETY: an open session, and parameters that live during the call.
        let status = unsafe { self.session.vpl().MFXVideoENCODE_Reset(self.session.raw(), params.raw()) };
        if status < vpl::MFX_ERR_NONE {
            return Err(fault("MFXVideoENCODE_Reset", status));
        }
        params.detach(Ext::Reset);
        self.actual = actual(&mut self.session, &params)?;
        self.params = params;
        Ok(())
    }

    /// Begins a new sequence with frames of the size in `settings`. Everything else stays as it was agreed: also the
    /// level, which allows what is smaller, and the buffer of the rate control, which runtimes refuse to change.
    ///
    /// # Errors
    /// Why it cannot be, for people; above all where the runtime would need more memory than Init gave it.
    pub fn change_size(&mut self, settings: &EncoderSettings) -> Result<(), String> {
        check_size(&self.session, settings).and_then(|()| check_tiles(settings)).map_err(|error| error.to_string())?;
        let mut params = self.params;
        params.set_size(frame_size(&settings.format));
        params.attach(Ext::Reset);
        // Another size is another sequence, whatever the codec: it is not in the list of what goes without one
        // (mfxExtEncoderResetOption), and receivers have to be told anyway.
        params.ext.reset.StartNewSequence = ON;
        let (status, answer) = query(&mut self.session, &mut params);
        if status < vpl::MFX_ERR_NONE {
            return Err(fault("MFXVideoENCODE_Query", status).to_string());
        }
        // What would change besides has to be agreed on, and said, as for a new session.
        if let Some(change) = changes(&params, &answer).pop() {
            return Err(change);
        }
        let mut expected = self.actual;
        expected.set_size(params.size());
        self.reset(params, ON).map_err(|fault| fault.to_string())?;
        changes(&expected, &self.actual).pop().map_or(Ok(()), Err)
    }

    /// Changes the bitrate to that of `settings`: without an IDR where the runtime can.
    ///
    /// # Errors
    /// What the runtime said to a new sequence, too.
    pub fn change_rate(&mut self, settings: &EncoderSettings) -> Result<RateChange, Fault> {
        // A smaller or larger buffer is a new sequence for some runtimes: they keep theirs.
        for keep_buffer in [false, true] {
            let mut params = self.params;
            rate::change(&mut params, settings, keep_buffer);
            match self.reset(params, OFF) {
                Ok(()) => return Ok(RateChange::Seamless),
                Err(Fault::Lost(reason)) => return Err(Fault::Lost(reason)),
                Err(Fault::Refused(error)) => tracing::debug!(keep_buffer, %error, "No change without an IDR"),
            }
        }
        let mut params = self.params;
        rate::change(&mut params, settings, false);
        self.reset(params, ON)?;
        Ok(RateChange::NewSequence)
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.input.part();
    }
}

fn check_size(session: &Session, settings: &EncoderSettings) -> Result<(), EncoderError> {
    let (width, height) = (settings.format.width, settings.format.height);
    let (least, most) = (session.found.min_size, session.found.max_size);
    if (least.0..=most.0).contains(&width) && (least.1..=most.1).contains(&height) {
        return Ok(());
    }
    Err(EncoderError::Setting {
        setting: "size",
        given: format!("{width}x{height}"),
        allowed: format!("{}x{} to {}x{} on {}", least.0, least.1, most.0, most.1, session.describe()),
    })
}

enum InputError {
    Setting(EncoderError),
    Device(NoDisplay),
}

fn choose_input(
    session: &mut Session,
    settings: &EncoderSettings,
    how: How,
    surfaces: bool,
) -> Result<Input, InputError> {
    if !session.found.hardware {
        return match &settings.device {
            None => Ok(Input::system("an implementation on the CPU".to_owned())),
            Some(device) => Err(InputError::Setting(EncoderError::Setting {
                setting: "device",
                given: device.display().to_string(),
                allowed: format!("nothing with {}, which works on the CPU", session.describe()),
            })),
        };
    }
    let opened = Display::open_first(settings.device.as_deref(), |display| {
        session.set_display(&display)?;
        Ok(display)
    });
    match opened {
        Ok(display) if surfaces => Ok(Input::video(Arc::new(display), how.import)),
        Ok(display) => Ok(Input::system_on(Arc::new(display), "the runtime takes no surfaces".to_owned())),
        Err(missing) if settings.device.is_some() => Err(InputError::Device(missing)),
        Err(missing) => {
            tracing::warn!(reason = %missing, "No VA display: the runtime has to find its device by itself");
            Ok(Input::system(format!("no VA display: {missing}")))
        }
    }
}
