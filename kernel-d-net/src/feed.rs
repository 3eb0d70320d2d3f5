//! One encode instance's access units on their way to the outputs that send them.

use crate::au::AuView;
use crate::codecs::web_codec_string;
use crate::outputs::http::{AuCopy, AuInfo, HttpOutput, StreamFormat as PageFormat};
use crate::outputs::listed::relist;
use crate::outputs::rtp::stream::{RtpStream, Sent};
use kernel_host::exit::{Exit, Failure};
use kernel_host::kernel::{Kernel, deadline_ns, ring};
use shm_protocol::clock::monotonic_ns;
use shm_protocol::descriptor::{StageTime, StreamFormat, flag};
use shm_protocol::frame::{Codec, VideoFormat};
use shm_protocol::input::{Consumer, FrameError, Taken};
use shm_protocol::telemetry::{Counter, Measure};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Who sends the units of one feed.
pub struct Outlet {
    /// The RTP stream, if this feed has it.
    pub rtp: Option<RtpStream>,
    /// The watch page, if it shows this feed.
    pub page: Option<Arc<HttpOutput>>,
    /// Set when a viewer of the page needs an IDR.
    pub idr_wanted: Option<Arc<AtomicBool>>,
}

/// A consumer of a bitstream ring and its outlet.
pub struct Feed {
    input: Consumer,
    outlet: Outlet,
    interval_ns: u64,
    /// Codec of the stream and its name for browsers, made anew when the parameter sets change.
    codec_string: Option<(Codec, Arc<str>)>,
}

#[expect(unsafe_code, reason = "access units lie in memory that their producer may still write")]
fn view<'a>(input: &mut Consumer, taken: &Taken) -> Result<AuView<'a>, FrameError> {
    let (base, len) = input.bytes(taken)?;
    // SAFETY: mapped as long as the pool, which the consumer keeps; `Feed` uses the view only while it holds
    // `taken`.
    Ok(unsafe { AuView::new(base.as_ptr(), len as u32) })
}

impl Feed {
    /// A feed from `input` to `outlet`.
    pub fn new(input: Consumer, outlet: Outlet) -> Feed {
        Feed { input, outlet, interval_ns: 0, codec_string: None }
    }

    /// Runs until the kernel is asked to end.
    ///
    /// # Errors
    /// [`Failure`] when the ring is lost.
    pub fn run(mut self, kernel: &mut Kernel) -> Result<(), Failure> {
        let ended = self.serve(kernel);
        // However it ended, a successor must find the session; one that is at work already has its own.
        self.outlet.rtp.iter_mut().for_each(|rtp| rtp.keep_session(&kernel.lease));
        ended
    }

    fn serve(&mut self, kernel: &mut Kernel) -> Result<(), Failure> {
        if self.outlet.rtp.as_ref().is_some_and(RtpStream::is_new) {
            // A stream that begins has nothing to show before an IDR.
            self.input.requester().request_idr();
        }
        while kernel.turn()? {
            if kernel.reloaded()
                && let Some(rtp) = &mut self.outlet.rtp
            {
                rtp.reload(kernel);
            }
            self.pass_on_requests(Some(kernel));
            if let Some(rtp) = &mut self.outlet.rtp
                && rtp.changed()
            {
                relist(kernel, rtp);
            }
            match self.input.acquire().map_err(ring)? {
                Some(taken) => {
                    if !self.unit(kernel, &taken)? {
                        break;
                    }
                }
                None => {
                    if self.input.is_bridging() {
                        self.input.set_bridging(false);
                    }
                    self.input.wait(0, deadline_ns(self.interval_ns), None);
                }
            }
        }
        Ok(())
    }

    /// One turn of a feed that has a thread of its own and only the page to serve.
    ///
    /// # Errors
    /// [`Failure`] when the ring is lost.
    pub fn turn_alone(&mut self) -> Result<(), Failure> {
        self.pass_on_requests(None);
        match self.input.acquire().map_err(ring)? {
            Some(taken) => {
                if !taken.head.has(flag::TOMBSTONE)
                    && let Ok(StreamFormat::Coded(codec, format)) = self.input.format(&taken)
                    && let Ok(au) = view(&mut self.input, &taken)
                {
                    self.show(&taken, &au, codec, &format);
                    self.interval_ns = format.fps.interval_ns();
                }
                self.input.release(&taken).map_err(ring)
            }
            None => {
                self.input.set_bridging(false);
                self.input.wait(0, deadline_ns(self.interval_ns), None);
                Ok(())
            }
        }
    }

    /// What viewers ask for reaches the encoder: merged, and no faster than the outputs allow.
    fn pass_on_requests(&mut self, kernel: Option<&Kernel>) {
        let page = self.outlet.idr_wanted.as_ref().is_some_and(|wanted| wanted.swap(false, Ordering::Relaxed));
        // A feed that has a thread of its own has no RTP stream.
        let rtp = self.outlet.rtp.as_mut().zip(kernel);
        let rtp = rtp.is_some_and(|(rtp, kernel)| rtp.poll(monotonic_ns(), &kernel.lease));
        if page || rtp {
            self.input.requester().request_idr();
            if let Some(kernel) = kernel {
                kernel.telemetry.add(Counter::IdrRequests, 1);
            }
        }
    }

    /// Sends one access unit. `false`: asked to end in the middle of it; it stays owed.
    fn unit(&mut self, kernel: &mut Kernel, taken: &Taken) -> Result<bool, Failure> {
        let begin_ns = monotonic_ns();
        if taken.head.has(flag::TOMBSTONE) {
            kernel.telemetry.add(Counter::Tombstones, 1);
            return self.input.release(taken).map(|()| true).map_err(ring);
        }
        let described = self.input.format(taken).map(|format| match format {
            StreamFormat::Coded(codec, video) => Some((codec, video)),
            _ => None,
        });
        let found = described.and_then(|format| Ok((format, view(&mut self.input, taken)?)));
        let (codec, format, au) = match found {
            Ok((Some((codec, format)), au)) => (codec, format, au),
            Err(error) if error.is_transient() => return Err(Failure::new(Exit::Temporary, error)),
            other => {
                if let Err(error) = other {
                    tracing::warn!(%error, "An access unit was refused");
                }
                kernel.telemetry.error();
                return self.input.release(taken).map(|()| true).map_err(ring);
            }
        };
        self.interval_ns = format.fps.interval_ns();
        let waited = self.input.details(taken).time(StageTime::EncodeDone);
        self.show(taken, &au, codec, &format);
        let end_ns = match &mut self.outlet.rtp {
            None => Some(monotonic_ns()),
            Some(rtp) => match rtp.send(kernel, taken, &au, (codec, &format))? {
                Sent::Out { last_packet_ns } => Some(last_packet_ns),
                Sent::Before => None,
                Sent::Stopped => return Ok(false),
            },
        };
        self.input.release(taken).map_err(ring)?;
        if let Some(end_ns) = end_ns {
            let telemetry = &kernel.telemetry;
            if telemetry.get(Counter::FirstOnWireNs) == 0 {
                telemetry.set(Counter::FirstOnWireNs, end_ns);
            }
            if let Some(since) = waited {
                telemetry.sample(Measure::Wait, end_ns, begin_ns.saturating_sub(since));
            }
            telemetry.sample(Measure::Work, end_ns, end_ns.saturating_sub(begin_ns));
            telemetry.sample(Measure::CaptureToWire, end_ns, end_ns.saturating_sub(taken.head.capture_ns));
            telemetry.frame(end_ns);
            if self.outlet.rtp.is_none() {
                telemetry.add(Counter::Bytes, u64::from(au.len()));
            }
        }
        if let Some(page) = &self.outlet.page {
            kernel.telemetry.set(Counter::Viewers, page.viewers() as u64);
        }
        Ok(true)
    }

    /// Gives the watch page its copy, when anybody watches.
    fn show(&mut self, taken: &Taken, au: &AuView<'_>, codec: Codec, format: &VideoFormat) {
        let Some(page) = &self.outlet.page else { return };
        // The name of another codec says nothing of this one: until its parameter sets come nothing can be shown.
        self.codec_string.take_if(|(known, _)| *known != codec);
        if taken.head.has(flag::CONFIG) || self.codec_string.is_none() {
            let name = codec_string(au, codec).map(|name| (codec, name));
            self.codec_string = name.or(self.codec_string.take());
        }
        let Some((_, name)) = self.codec_string.as_ref().filter(|_| page.viewers() > 0) else { return };
        let realtime_ns = taken.head.capture_ns.wrapping_add(shm_protocol::clock::realtime_offset_ns());
        let info = AuInfo {
            frame_id: taken.head.key.id(),
            idr: taken.head.has(flag::IDR),
            config: taken.head.has(flag::CONFIG),
            capture_realtime_us: realtime_ns / 1000,
            format: PageFormat { codec: Arc::clone(name), width: format.width, height: format.height, fps: format.fps },
        };
        page.publish(AuCopy::fill(info, au.len() as usize, |to| {
            au.copy_to(0, to);
        }));
    }
}

/// The WebCodecs name of the stream; `None` when the page cannot show it.
fn codec_string(au: &AuView<'_>, codec: Codec) -> Option<Arc<str>> {
    /// Delimiter and parameter sets stand in front; they are short.
    const HEAD_BYTES: usize = 1024;
    let mut head = [0u8; HEAD_BYTES];
    let len = au.copy_to(0, &mut head);
    web_codec_string(codec, &head[..len]).map(Arc::from)
}
