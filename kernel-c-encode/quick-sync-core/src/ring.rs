//! A C program in the place of kernel C: it takes frames from the ring upstream and publishes what it made of them, by
//! the same rules as the binary (leases, the stage rule, requests from downstream).

use crate::codes::*;
use crate::config;
use crate::failure::Failure;
use crate::types::*;
use kernel_c_encode::bitstream::assemble::hand_on;
use kernel_c_encode::encoder::{AuSink as _, Key, LeftOut};
use kernel_c_encode::encoding::au_buffer_bytes;
use kernel_c_encode::error::{EncoderError, SinkError};
use kernel_c_encode::flight::{Flight, Flights};
use kernel_c_encode::sink::RingSink;
use kernel_host::args::KernelArgs;
use kernel_host::config::{Encode, VideoCodec};
use kernel_host::exit::Failure as KernelFailure;
use kernel_host::kernel::{self, Kernel, deadline_ns};
use kernel_host::name::Kind;
use kernel_host::prepare::{Prepare, Surroundings};
use shm_protocol::clock::monotonic_ns;
use shm_protocol::descriptor::{StageTime, StreamFormat, TombstoneReason, flag};
use shm_protocol::frame::{Codec, PixelFormat, Range, Rational, VideoFormat};
use shm_protocol::input::Taken;
use shm_protocol::lease::LeaseTable;
use shm_protocol::output::Producer;
use shm_protocol::pool::PoolKind;
use shm_protocol::stage::{Next, Stage};
use shm_protocol::telemetry::{Counter, Measure};
use std::collections::VecDeque;
use std::time::Duration;

/// How often a paused program looks whether it is to go on: within a frame interval.
const PAUSE_LOOK: Duration = Duration::from_millis(10);

/// The place of kernel C, held by this process.
pub(crate) struct Ring {
    /// Dropped before the kernel goes: the successor opens the same rings.
    stage: Stage,
    kernel: Kernel,
    config: Encode,
    /// Frames taken and not answered yet, oldest first.
    taken: VecDeque<Owed>,
    /// The next frame to hand out, looked at already by `describe`.
    next: Option<(Owed, VideoFormat)>,
    /// What the output ring was made ready for.
    open: Option<(Codec, VideoFormat)>,
    /// The frame that an access unit is being published for.
    flights: Flights,
    /// Nothing of this process is out yet: it has to begin with an IDR.
    begins: bool,
    interval_ns: u64,
}

/// A frame that an answer is owed for.
struct Owed {
    taken: Taken,
    format: Option<VideoFormat>,
    begin_ns: u64,
    /// Handed out with the wish for an IDR, which serves requests up to this serial.
    forced: Option<Option<u64>>,
    /// Handed out with the wish for this bitrate, kbit/s, of this serial.
    bitrate: Option<(u32, u64)>,
    /// There is nothing to wait for: it becomes a tombstone as soon as it is the oldest.
    nothing: Option<TombstoneReason>,
}

/// Nothing is prepared beforehand: the program's own encoder is.
struct Unprepared;

impl Prepare for Unprepared {
    fn prepare(&mut self, _around: &Surroundings<'_>) -> Result<Option<String>, KernelFailure> {
        Ok(None)
    }
}

fn stopped() -> Failure {
    Failure::new(QSV_STOPPED, "The process was asked to end, or a successor takes its place")
}

impl Ring {
    /// Becomes kernel C. Waits for the ring upstream to appear.
    pub(crate) fn attach(args: &KernelArgs, wait: bool) -> Result<Ring, Failure> {
        let name = format!("{}.{}", Kind::Encode.name(), args.name);
        if !wait && let Ok(table) = LeaseTable::observe(&args.instance) {
            let holder = table.find(&name).map(|index| table.info(index)).filter(|info| info.held);
            if let Some(holder) = holder {
                let text = format!(
                    "{name} of instance {} is process {}; end it, or attach with QSV_ATTACH_WAIT",
                    args.instance, holder.pid
                );
                return Err(Failure::new(QSV_ERR_BUSY, text));
            }
        }
        let mut kernel = Kernel::start(args, Kind::Encode, &mut Unprepared)?.ok_or_else(stopped)?;
        let Some(config) = kernel.config.encode(&kernel.name.name).cloned() else {
            return Err(Failure::value("kernel", &name, "one that the configuration has"));
        };
        // Replaced by the rate of the frames; the policy needs one for its bound of latency.
        let spec = kernel.ring_spec(Rational { num: 60, den: 1 });
        let (output, _) = Producer::open(&kernel.lease, &spec, &kernel.directory).map_err(kernel::open)?;
        let input = kernel.attach(&config.input)?.ok_or_else(stopped)?;
        let stage = Stage::new(input, output, 0);
        kernel.telemetry.set_backend("quick-sync-core");
        kernel.telemetry.set_path("a program in C");
        kernel.running();
        let (taken, next) = (VecDeque::new(), None);
        let flights = Flights::default();
        Ok(Ring { stage, kernel, config, taken, next, open: None, flights, begins: true, interval_ns: 0 })
    }

    /// Leaves the place in order: what was taken and not answered is still owed, and a successor does it.
    pub(crate) fn detach(self) -> Result<(), Failure> {
        let Ring { stage, kernel, .. } = self;
        drop(stage);
        // Yields to a successor that waits, and watches over it as every kernel does.
        Ok(kernel.serve(|_| Ok(()))?)
    }

    /// Fills in what frames of the ring need of an encoder. Takes the next frame for that and keeps it.
    pub(crate) fn describe(&mut self, config: &mut qsv_config, timeout: Duration) -> Result<(), Failure> {
        if self.next.is_none() {
            self.next = Some(self.look(timeout)?);
        }
        let Some((_, format)) = &self.next else { return Ok(()) };
        config.width = format.width as i32;
        config.height = format.height as i32;
        (config.fps_num, config.fps_den) = (format.fps.num, format.fps.den);
        config.pixel_format = pixel_code(format)?;
        config.colour_matrix = format.colour.matrix;
        config.colour_primaries = format.colour.primaries;
        config.colour_transfer = format.colour.transfer;
        config.colour_full_range = u8::from(format.colour.range == Range::Full);
        let asked_kbps = self.stage.output.requests().last_bitrate_kbps();
        config.bitrate_bps = u64::from(asked_kbps.unwrap_or(self.config.bitrate_kbps)) * 1000;
        config.low_latency = i32::from(self.config.low_latency);
        config.codec = match self.config.codec {
            VideoCodec::H264 => QSV_CODEC_H264,
            VideoCodec::Hevc => QSV_CODEC_HEVC,
            VideoCodec::Av1 => QSV_CODEC_AV1,
        };
        config.idr_count = self.stage.output.idr_count() as u32;
        Ok(())
    }

    /// The next frame, to be encoded and answered.
    pub(crate) fn get_frame(&mut self, timeout: Duration) -> Result<qsv_frame, Failure> {
        let (mut owed, format) = match self.next.take() {
            Some(next) => next,
            None => self.look(timeout)?,
        };
        let asked = self.stage.output.requests().pending();
        // One at a time: the frames behind it are not IDRs because it is not out yet.
        let under_way = self.taken.iter().any(|owed| owed.forced.is_some());
        if (asked.idr.is_some() || self.begins) && !under_way {
            owed.forced = Some(asked.idr);
        }
        owed.bitrate = asked.bitrate_kbps;
        let mut frame = qsv_frame {
            data: [std::ptr::null(); 4],
            stride: [0; 4],
            width: format.width,
            height: format.height,
            pixel_format: pixel_code(&format)?,
            flags: if owed.forced.is_some() { QSV_FRAME_FORCE_IDR } else { 0 },
            frame_id: owed.taken.head.key.id(),
            pts_ns: u64::try_from(self.stage.input.details(&owed.taken).source_pts_ns).unwrap_or(0),
            bitrate_bps: owed.bitrate.map_or(0, |(kbps, _)| u64::from(kbps) * 1000),
            reserved: [0; 4],
        };
        match self.stage.input.pixels(&owed.taken, &format) {
            Ok(pixels) => {
                for plane in 0..format.pixel_format.planes() {
                    frame.data[plane] = pixels.plane(plane);
                    frame.stride[plane] = format.planes[plane].stride;
                }
            }
            Err(error) => {
                self.kernel.telemetry.error();
                if error.is_transient() {
                    // Another try, or another process of this kernel, may reach the bytes: the frame stays the next one.
                    self.next = Some((owed, format));
                } else {
                    owed.nothing = Some(TombstoneReason::BadFrame);
                    self.taken.push_back(owed);
                    self.settle()?;
                }
                return Err(Failure::new(QSV_ERR_RING, error.to_string()));
            }
        }
        self.taken.push_back(owed);
        Ok(frame)
    }

    /// Waits for a frame that something can be made of.
    fn look(&mut self, timeout: Duration) -> Result<(Owed, VideoFormat), Failure> {
        let end_ns = monotonic_ns().saturating_add(u64::try_from(timeout.as_nanos()).unwrap_or(u64::MAX));
        // Half of the ring: with all of it held, the kernel upstream has no slot to write.
        if self.taken.len() >= self.stage.input.slots() / 2 {
            let text = format!("{} frames are taken and not answered: send or skip them", self.taken.len());
            return Err(Failure::new(QSV_ERR_PENDING, text));
        }
        loop {
            if !self.kernel.turn()? {
                return Err(stopped());
            }
            self.settle()?;
            self.stage.harvest()?;
            self.stage.pace(usize::MAX);
            let paused = self.paused();
            if paused {
                self.kernel.stop.wait(PAUSE_LOOK);
            } else if let Next::Frame(taken) = self.stage.next_frame()? {
                if let Some(next) = self.judge(taken) {
                    return Ok(next);
                }
                continue;
            } else {
                self.kernel.telemetry.set(Counter::Backlog, 0);
                self.stage.input.wait(0, deadline_ns(self.interval_ns).min(end_ns), None);
            }
            if monotonic_ns() >= end_ns && (paused || !self.stage.input.has_next()) {
                return Err(Failure::new(QSV_TIMEOUT, "No frame came in time"));
            }
        }
    }

    /// Whether the operator asked for a pause; says that it is followed.
    fn paused(&self) -> bool {
        let requests = self.stage.output.requests();
        let pause = requests.pending().pause;
        requests.pause_followed();
        pause
    }

    /// A frame that can be encoded; one that cannot is answered in its turn.
    fn judge(&mut self, taken: Taken) -> Option<(Owed, VideoFormat)> {
        let begin_ns = monotonic_ns();
        let details = self.stage.input.details(&taken);
        if let Some(since) = details.time(StageTime::ProcessDone) {
            self.kernel.telemetry.sample(Measure::Wait, begin_ns, begin_ns.saturating_sub(since));
        }
        let mut owed = Owed { taken, format: None, begin_ns, forced: None, bitrate: None, nothing: None };
        match self.stage.input.format(&taken) {
            Ok(StreamFormat::Video(format)) if !taken.head.has(flag::TOMBSTONE) && pixel_code(&format).is_ok() => {
                owed.format = Some(format);
                self.interval_ns = format.fps.interval_ns();
                Some((owed, format))
            }
            other => {
                if let Err(error) = other {
                    self.kernel.telemetry.set_message(&error.to_string());
                    self.kernel.telemetry.error();
                }
                owed.nothing = Some(TombstoneReason::BadFrame);
                self.taken.push_back(owed);
                None
            }
        }
    }

    /// Publishes tombstones for the oldest frames that nothing is made of.
    fn settle(&mut self) -> Result<(), Failure> {
        while let Some((taken, reason)) = self.taken.front().and_then(|owed| Some((owed.taken, owed.nothing?))) {
            while !self.stage.tombstone(&taken, reason)? {
                self.stage.output.wait_for_room(deadline_ns(0));
                if !self.kernel.turn()? {
                    return Err(stopped());
                }
            }
            self.kernel.telemetry.add(Counter::Tombstones, 1);
            self.taken.pop_front();
        }
        Ok(())
    }

    /// Where the answer for `frame_id` belongs; 0 means the oldest.
    fn position(&self, frame_id: u64) -> Result<usize, Failure> {
        let waits = |owed: &Owed| owed.nothing.is_none() && (frame_id == 0 || owed.taken.head.key.id() == frame_id);
        self.taken.iter().position(waits).ok_or_else(|| {
            let waiting: Vec<u64> = self.taken.iter().map(|owed| owed.taken.head.key.id()).collect();
            Failure::value("frame_id", frame_id, format!("one that was taken and not answered: {waiting:?}"))
        })
    }

    /// Says that nothing is made of a frame, nor of those before it.
    pub(crate) fn skip(&mut self, frame_id: u64) -> Result<(), Failure> {
        let at = self.position(frame_id)?;
        for owed in self.taken.iter_mut().take(at + 1) {
            owed.nothing.get_or_insert(TombstoneReason::RateControl);
        }
        self.settle()
    }

    /// Publishes an access unit. Frames before it that were not answered become tombstones: the order is that of the
    /// frames, and nothing older can follow.
    pub(crate) fn send(&mut self, unit: &qsv_bitstream, bytes: &[u8]) -> Result<(), Failure> {
        if bytes.is_empty() {
            return self.skip(unit.frame_id);
        }
        let codec = config::codec(unit.codec)?;
        let at = self.position(unit.frame_id)?;
        for owed in self.taken.iter_mut().take(at) {
            owed.nothing.get_or_insert(TombstoneReason::RateControl);
        }
        self.settle()?;
        let Some(owed) = self.taken.front() else { return Ok(()) };
        let (taken, begin_ns, forced, asked_bitrate) = (owed.taken, owed.begin_ns, owed.forced, owed.bitrate);
        if let Some(format) = owed.format
            && self.open != Some((codec, format))
        {
            self.open(codec, &format)?;
        }
        let mut details = self.stage.input.details(&taken);
        details.stamp(StageTime::EncodeBegin, begin_ns);
        let key = Key { source_id: taken.head.key.id(), sub: taken.head.key.sub() };
        let mut flight = Flight::new(&mut self.stage.input, taken, details, begin_ns)
            .map_err(|error| Failure::new(QSV_ERR_RING, error.to_string()))?;
        (flight.idr_asked, flight.forced) = (forced.flatten(), forced.is_some());
        self.flights.enter(flight);
        // The sink waits for a slot: an access unit that was made must not be lost.
        let mut claim = None;
        let mut sink = RingSink::new(&mut self.kernel, &mut self.stage, &mut self.flights, &mut claim);
        let mut handed = hand_on("the program", codec, bytes, (key, unit.pts_ns), &mut sink);
        if let Err(EncoderError::Sink(SinkError::TooLarge { .. })) = &handed {
            // What follows refers to what is lost here.
            self.begins = true;
            if let Err(refused) = sink.left_out(key, LeftOut::TooLarge) {
                handed = Err(refused.into());
            }
        }
        let done = sink.finish();
        if let Some(claim) = claim {
            self.stage.output.abort(claim)?;
        }
        // A stream that is none was not published: the frame stays owed, for another try or a skip.
        if self.flights.leave().is_none() {
            self.taken.pop_front();
        }
        if let Some(failure) = done.failed {
            return Err(failure.into());
        }
        if done.stopped {
            return Err(stopped());
        }
        if done.idr {
            self.begins = false;
        }
        if let Some((kbps, serial)) = asked_bitrate {
            self.acknowledge(kbps, serial, unit.bitrate_bps);
        }
        self.stage.harvest()?;
        self.settle()?;
        handed.map(|_| ()).map_err(Failure::from)
    }

    /// Answers a wish for a bitrate by what the access unit says is in force; 0 says nothing.
    fn acknowledge(&self, kbps: u32, serial: u64, in_force_bps: u64) {
        let requests = self.stage.output.requests();
        let in_force_kbps = u32::try_from(in_force_bps / 1000).unwrap_or(u32::MAX);
        if in_force_kbps == kbps {
            self.kernel.telemetry.set(Counter::TargetKbps, u64::from(kbps));
            requests.bitrate_set(serial);
        } else if in_force_kbps != 0 {
            requests.bitrate_refused(serial, kbps, in_force_kbps);
        }
    }

    /// Makes the output ring ready for access units of this kind.
    fn open(&mut self, codec: Codec, format: &VideoFormat) -> Result<(), Failure> {
        let (kernel, output) = (&self.kernel, &mut self.stage.output);
        let bytes = au_buffer_bytes(codec, format);
        output.set_pool(PoolKind::PosixShm, bytes, kernel.runtime.path()).map_err(kernel::object)?;
        output.set_format(&StreamFormat::Coded(codec, *format))?;
        kernel.telemetry.set_codec(codec.name());
        self.open = Some((codec, *format));
        Ok(())
    }
}

/// The number C knows a pixel format by.
fn pixel_code(format: &VideoFormat) -> Result<u32, Failure> {
    match format.pixel_format {
        PixelFormat::Nv12 => Ok(QSV_PIXEL_NV12),
        PixelFormat::P010 => Ok(QSV_PIXEL_P010),
        other => {
            let text = format!("Frames of {} cannot be handed out: allowed is nv12 or p010", other.name());
            Err(Failure::new(QSV_ERR_UNSUPPORTED, text))
        }
    }
}
