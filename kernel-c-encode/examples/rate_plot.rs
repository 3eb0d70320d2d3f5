//! Draws bitrate, bucket and quantiser of a film as SVG, and times the complexity measure.
//!
//! ```text
//! ffmpeg -i bigbuckbunny.mp4 -pix_fmt yuv420p clip.y4m
//! cargo run --release -p kernel-c-encode --example rate_plot -- clip.y4m docs/images/rate-control.svg
//! cargo run --release -p kernel-c-encode --example rate_plot -- --time
//! ```
//!
//! The film is the clip played on and on: as it is, then with grain over it, then as it is. Three encoders code it:
//! openh264 alone, openh264 with the guard, and openh264 by our own rate control, a quantiser a frame.

use anyhow::{Context as _, Result, bail};
use kernel_c_encode::backends::software::openh264::OpenH264;
use kernel_c_encode::encoder::{AccessUnitMeta, AuSink, EncodeInput, Encoder, Key, LeftOut};
use kernel_c_encode::error::SinkError;
use kernel_c_encode::ratecontrol::bucket::LeakyBucket;
use kernel_c_encode::ratecontrol::controlled::Controlled;
use kernel_c_encode::ratecontrol::satd::ComplexityMeter;
use kernel_c_encode::settings::{EncoderSettings, Gop, RateControl};
use shm_protocol::frame::{Codec, Colour, PixelFormat, Rational, VideoFormat};
use shm_protocol::pixels::PixelsRead;
use std::fmt::Write as _;
use std::time::Instant;

/// Bitrate of the film, kb/s.
const KBPS: u32 = 2000;
/// Size of the bucket drawn, ms of the bitrate.
const BUCKET_MS: u32 = 500;
/// Seconds of each of the three parts.
const PART_S: usize = 5;
/// Levels of the grain, each way.
const GRAIN: i32 = 28;

/// A clip of I420 frames.
struct Clip {
    format: VideoFormat,
    frames: Vec<Vec<u8>>,
}

impl Clip {
    /// Reads a Y4M file of 4:2:0 frames.
    fn read(path: &str) -> Result<Clip> {
        let bytes = std::fs::read(path).with_context(|| format!("Cannot read {path}"))?;
        let line_end = |bytes: &[u8]| bytes.iter().position(|byte| *byte == b'\n').context("The file is cut short");
        let end = line_end(&bytes)?;
        let header = String::from_utf8_lossy(&bytes[..end]).into_owned();
        let field = |tag: char| {
            let word = header.split(' ').skip(1).find_map(|word| word.strip_prefix(tag));
            word.map(str::to_owned).with_context(|| format!("{path} names no {tag}"))
        };
        let (width, height) = (field('W')?.parse()?, field('H')?.parse()?);
        let rate = field('F')?;
        let (num, den) = rate.split_once(':').context("The frame rate is no fraction")?;
        let fps = Rational::new(num.parse()?, den.parse()?).context("The frame rate is 0")?;
        let format = VideoFormat::packed(PixelFormat::I420, width, height, fps, Colour::BT709_LIMITED)?;
        let mut rest = &bytes[end + 1..];
        let mut frames = Vec::new();
        while !rest.is_empty() {
            rest = &rest[line_end(rest)? + 1..];
            let mut frame = vec![0; format.frame_bytes() as usize];
            for plane in 0..3 {
                let layout = format.planes[plane];
                let row_bytes = format.pixel_format.row_bytes(plane, width) as usize;
                for y in 0..format.pixel_format.rows(plane, height) as usize {
                    let at = layout.offset as usize + y * layout.stride as usize;
                    let (row, after) = rest.split_at_checked(row_bytes).context("A frame is cut short")?;
                    frame[at..at + row_bytes].copy_from_slice(row);
                    rest = after;
                }
            }
            frames.push(frame);
        }
        Ok(Clip { format, frames })
    }

    /// Frame `index` of the film.
    fn frame(&self, index: usize, part_frames: usize) -> Vec<u8> {
        let mut frame = self.frames[index % self.frames.len()].clone();
        if (part_frames..2 * part_frames).contains(&index) {
            // The same grain in every run.
            let mut random = index as u32 ^ 0x9e37_79b9;
            let luma = (self.format.planes[0].stride * self.format.height) as usize;
            for byte in &mut frame[..luma] {
                random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                let grain = (random >> 16) as i32 % (2 * GRAIN + 1) - GRAIN;
                *byte = (i32::from(*byte) + grain).clamp(16, 235) as u8;
            }
        }
        frame
    }
}

/// Counts bits.
#[derive(Default)]
struct Count {
    buffer: Vec<u8>,
    bits: u64,
}

impl AuSink for Count {
    fn buffer(&mut self, len: usize) -> Result<&mut [u8], SinkError> {
        self.buffer.resize(len.max(self.buffer.len()), 0);
        Ok(&mut self.buffer)
    }

    fn commit(&mut self, len: usize, _meta: &AccessUnitMeta) -> Result<(), SinkError> {
        self.bits = len as u64 * 8;
        Ok(())
    }

    fn left_out(&mut self, _key: Key, _reason: LeftOut) -> Result<(), SinkError> {
        self.bits = 0;
        Ok(())
    }
}

/// Values at frames.
type Curve = Vec<(usize, f64)>;

/// One way to code the film, and what came of it.
struct Run {
    name: &'static str,
    colour: &'static str,
    encoder: Box<dyn Encoder>,
    bits: Vec<u64>,
}

fn settings(format: VideoFormat, rate_control: RateControl) -> EncoderSettings {
    EncoderSettings { rate_control, gop: Gop::two_seconds(&format), ..EncoderSettings::live(Codec::H264, format, KBPS) }
}

fn runs(format: VideoFormat) -> Result<[Run; 3]> {
    let cbr = settings(format, RateControl::Constant);
    let by_quantiser = Box::new(OpenH264::open(&settings(format, RateControl::ConstantQp))?);
    let run = |name, colour, encoder| Run { name, colour, encoder, bits: Vec::new() };
    Ok([
        run("openh264 alone", "#c0392b", Box::new(OpenH264::open(&cbr)?.without_guard())),
        run("openh264 with the guard", "#2471a3", Box::new(OpenH264::open(&cbr)?)),
        run("our rate control, a QP per frame", "#1e8449", Box::new(Controlled::new(by_quantiser, &cbr)?)),
    ])
}

/// Bits of the last second at each frame, as a share of the bitrate; the first second only once it is whole.
fn seconds(bits: &[u64], fps: f64) -> Curve {
    let length = fps.round().max(1.0) as usize;
    let whole = f64::from(KBPS) * 1000.0;
    bits.windows(length)
        .enumerate()
        .map(|(from, window)| (from + length - 1, window.iter().sum::<u64>() as f64 / whole))
        .collect()
}

/// What waits in the bucket at each frame, ms of the bitrate.
fn levels(bits: &[u64], fps: f64) -> Curve {
    let rate = f64::from(KBPS) * 1000.0;
    let mut bucket = LeakyBucket::new(f64::from(KBPS) * f64::from(BUCKET_MS), rate / fps);
    let level = |bits: &u64| {
        bucket.frame(*bits as f64);
        bucket.peak_bits() / rate * 1000.0
    };
    bits.iter().map(level).enumerate().collect()
}

/// A panel of the drawing: curves over the film's time.
struct Panel {
    title: String,
    top: f64,
    most: f64,
    ticks: Vec<f64>,
    limit: f64,
}

const WIDTH: f64 = 960.0;
const LEFT: f64 = 56.0;
const PANEL_HEIGHT: f64 = 200.0;

impl Panel {
    fn draw(&self, svg: &mut String, frames: usize, fps: f64, curves: &[(&str, Curve)]) {
        let right = WIDTH - 16.0;
        let bottom = self.top + PANEL_HEIGHT;
        let x = |frame: usize| LEFT + frame as f64 / frames as f64 * (right - LEFT);
        let y = |value: f64| bottom - value.min(self.most) / self.most * PANEL_HEIGHT;
        let _ =
            writeln!(svg, r##"<text x="{LEFT}" y="{:.0}" font-weight="bold">{}</text>"##, self.top - 8.0, self.title);
        for tick in &self.ticks {
            let at = y(*tick);
            let _ = writeln!(svg, r##"<path d="M{LEFT} {at:.1}H{right}" stroke="#ddd"/>"##);
            let (text_x, text_y) = (LEFT - 6.0, at + 4.0);
            let _ = writeln!(svg, r##"<text x="{text_x}" y="{text_y:.1}" text-anchor="end">{tick}</text>"##);
        }
        let seconds = (frames as f64 / fps).floor() as usize;
        for second in 0..=seconds {
            let at = x((second as f64 * fps) as usize);
            let _ =
                writeln!(svg, r##"<text x="{at:.1}" y="{:.1}" text-anchor="middle">{second}</text>"##, bottom + 16.0);
        }
        let at = y(self.limit);
        let _ = writeln!(svg, r##"<path d="M{LEFT} {at:.1}H{right}" stroke="#000" stroke-dasharray="5 4"/>"##);
        for (colour, curve) in curves {
            let points: Vec<String> = curve.iter().map(|(at, v)| format!("{:.1},{:.1}", x(*at), y(*v))).collect();
            let points = points.join(" ");
            let _ =
                writeln!(svg, r##"<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.6"/>"##);
        }
    }
}

fn draw(runs: &[Run], part_frames: usize, fps: f64) -> String {
    let frames = 3 * part_frames;
    let mut svg = String::new();
    let _ = writeln!(
        svg,
        r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} 560" font-family="sans-serif" font-size="12">"##
    );
    let _ = writeln!(svg, r##"<rect width="{WIDTH}" height="560" fill="#fff"/>"##);
    let width = (WIDTH - 16.0 - LEFT) / 3.0;
    for (part, top) in [(1.0, 60.0), (1.0, 316.0)] {
        let at = LEFT + part * width;
        let _ = writeln!(
            svg,
            r##"<rect x="{at:.1}" y="{top}" width="{width:.1}" height="{PANEL_HEIGHT}" fill="#f4f0e4"/>"##
        );
        let _ = writeln!(svg, r##"<text x="{:.1}" y="{}" fill="#777">with grain</text>"##, at + 6.0, top + 14.0);
    }
    for (index, run) in runs.iter().enumerate() {
        let at = LEFT + index as f64 * 230.0;
        let colour = run.colour;
        let _ = writeln!(svg, r##"<path d="M{at} 18h22" stroke="{colour}" stroke-width="3"/>"##);
        let _ = writeln!(svg, r##"<text x="{}" y="22">{}</text>"##, at + 28.0, run.name);
    }
    let rate = Panel {
        title: format!("Bits of the last second, share of {KBPS} kb/s (dashed: 1.1)"),
        top: 60.0,
        most: 2.0,
        ticks: vec![0.0, 0.5, 1.0, 1.5, 2.0],
        limit: 1.1,
    };
    let bucket = Panel {
        title: format!("Waiting in the bucket as a frame comes in, ms of the bitrate (dashed: its size, {BUCKET_MS})"),
        top: 316.0,
        most: 1000.0,
        ticks: vec![0.0, 250.0, 500.0, 750.0, 1000.0],
        limit: f64::from(BUCKET_MS),
    };
    let of = |curve: fn(&[u64], f64) -> Curve| -> Vec<(&str, Curve)> {
        runs.iter().map(|run| (run.colour, curve(&run.bits, fps))).collect()
    };
    rate.draw(&mut svg, frames, fps, &of(seconds));
    bucket.draw(&mut svg, frames, fps, &of(levels));
    let _ = writeln!(svg, r##"<text x="{}" y="552" text-anchor="end">seconds of film</text></svg>"##, WIDTH - 16.0);
    svg
}

fn plot(clip: &str, out: &str) -> Result<()> {
    let clip = Clip::read(clip)?;
    let fps = clip.format.fps.as_f64();
    let part_frames = (PART_S as f64 * fps).round() as usize;
    let mut runs = runs(clip.format)?;
    for index in 0..3 * part_frames {
        let bytes = clip.frame(index, part_frames);
        for run in &mut runs {
            let frame = EncodeInput {
                pixels: PixelsRead::from_slice(&clip.format, &bytes)?,
                memory: None,
                key: Key { source_id: index as u64 + 1, sub: 0 },
                pts_ns: clip.format.fps.frame_time_ns(index as u64),
                force_idr: false,
                qp: None,
                idr_count: 0,
            };
            let mut sink = Count::default();
            run.encoder.encode(&frame, &mut sink)?;
            run.bits.push(sink.bits);
        }
    }
    for run in &runs {
        let fullest = seconds(&run.bits, fps).iter().fold(0.0, |most: f64, (_, share)| most.max(*share));
        let waiting = levels(&run.bits, fps).iter().fold(0.0, |most: f64, (_, ms)| most.max(*ms));
        let mean = run.bits.iter().sum::<u64>() as f64 / run.bits.len() as f64 * fps / 1000.0;
        println!("{}: {mean:.0} kb/s, fullest second {fullest:.3}, at most {waiting:.0} ms waiting", run.name);
    }
    std::fs::write(out, draw(&runs, part_frames, fps)).with_context(|| format!("Cannot write {out}"))
}

/// Times the complexity of frames at 1080p.
fn time() -> Result<()> {
    const FRAMES: usize = 300;
    for pixel_format in [PixelFormat::Nv12, PixelFormat::P010] {
        let format =
            VideoFormat::packed(pixel_format, 1920, 1080, Rational::new(60, 1).context("60")?, Colour::BT709_LIMITED)?;
        // More frames than a cache holds, as they come in a ring.
        let ring: Vec<Vec<u8>> = (0..8u32)
            .map(|seed| {
                let byte = |at: u32| ((at ^ (seed * 77)).wrapping_mul(0x85eb_ca6b) >> 24) as u8;
                (0..format.frame_bytes() as u32).map(byte).collect()
            })
            .collect();
        let mut meter = ComplexityMeter::new(&format)?;
        let mut times_us: Vec<f64> = Vec::with_capacity(FRAMES);
        for index in 0..FRAMES {
            let pixels = PixelsRead::from_slice(&format, &ring[index % ring.len()])?;
            let begin = Instant::now();
            let complexity = meter.measure(&pixels).context("The meter refused the frame")?;
            times_us.push(begin.elapsed().as_secs_f64() * 1e6);
            if complexity.inter <= 0.0 {
                bail!("Noise has a complexity");
            }
        }
        times_us.sort_by(f64::total_cmp);
        let (median, p99) = (times_us[FRAMES / 2], times_us[FRAMES * 99 / 100]);
        println!("{} 1920x1080: median {median:.0} µs, p99 {p99:.0} µs", pixel_format.name());
    }
    Ok(())
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["--time"] => time(),
        [clip, out] => plot(clip, out),
        _ => bail!("Give a Y4M clip and the SVG to write, or --time"),
    }
}
