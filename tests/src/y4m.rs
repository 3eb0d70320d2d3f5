//! Y4M files, as far as the tests make and read them.

use std::path::Path;
use std::process::Command;

/// A decoded clip: I420 frames.
#[derive(Debug, Clone)]
pub struct Clip {
    /// The stream header without its line end.
    pub header: String,
    /// Width, pixels.
    pub width: usize,
    /// Height, pixels.
    pub height: usize,
    /// Frames a second as a fraction.
    pub fps: (u32, u32),
    /// Luma, Cb, Cr of every frame.
    pub frames: Vec<Vec<u8>>,
}

impl Clip {
    /// Has FFmpeg decode `source` to 4:2:0.
    pub fn decode(source: &Path, folder: &Path) -> Clip {
        let path = folder.join("clip.y4m");
        let mut command = Command::new("ffmpeg");
        command.args(["-v", "error", "-nostdin", "-y", "-i"]).arg(source);
        command.args(["-an", "-fps_mode", "passthrough", "-pix_fmt", "yuv420p", "-f", "yuv4mpegpipe"]).arg(&path);
        assert!(command.status().unwrap().success());
        let clip = Clip::parse(&std::fs::read(&path).unwrap());
        std::fs::remove_file(path).unwrap();
        clip
    }

    /// Reads a Y4M file of 4:2:0 frames.
    pub fn parse(bytes: &[u8]) -> Clip {
        let line = |bytes: &[u8]| bytes.iter().position(|byte| *byte == b'\n').unwrap();
        let end = line(bytes);
        let header = String::from_utf8(bytes[..end].to_vec()).unwrap();
        let field = |tag: char| header.split(' ').find_map(|word| word.strip_prefix(tag)).unwrap();
        let (width, height) = (field('W').parse().unwrap(), field('H').parse().unwrap());
        let (num, den) = field('F').split_once(':').unwrap();
        let fps = (num.parse().unwrap(), den.parse().unwrap());
        let size = width * height * 3 / 2;
        let mut frames = Vec::new();
        let mut rest = &bytes[end + 1..];
        while !rest.is_empty() {
            let head = line(rest);
            assert!(rest[..head].starts_with(b"FRAME"));
            frames.push(rest[head + 1..head + 1 + size].to_vec());
            rest = &rest[head + 1 + size..];
        }
        Clip { header, width, height, fps, frames }
    }

    /// The Y4M stream again, its frames `count` long (from the beginning again where there are not so many).
    pub fn bytes(&self, count: usize) -> Vec<u8> {
        let mut bytes = format!("{}\n", self.header).into_bytes();
        for frame in self.frames.iter().cycle().take(count) {
            bytes.extend_from_slice(b"FRAME\n");
            bytes.extend_from_slice(frame);
        }
        bytes
    }
}

/// Longest a FIFO may take no byte.
const FIFO_PATIENCE: std::time::Duration = std::time::Duration::from_secs(20);

impl Clip {
    /// Writes `count` frames into a FIFO at the clip's own rate. Returns when the last one is written.
    pub fn play(&self, fifo: &Path, count: usize) {
        use std::io::Write as _;
        use std::os::unix::fs::OpenOptionsExt as _;
        let begin = std::time::Instant::now();
        // Opening a FIFO for writing fails until somebody reads it.
        let mut to = loop {
            let opened = std::fs::OpenOptions::new().write(true).custom_flags(nix::libc::O_NONBLOCK).open(fifo);
            match opened {
                Ok(file) => break file,
                Err(error) => assert!(begin.elapsed() < FIFO_PATIENCE, "Nobody reads the FIFO: {error}"),
            }
            std::thread::sleep(std::time::Duration::from_millis(5));
        };
        let mut put = |mut bytes: &[u8]| {
            let since = std::time::Instant::now();
            while !bytes.is_empty() {
                match to.write(bytes) {
                    Ok(written) => bytes = &bytes[written..],
                    Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                        assert!(since.elapsed() < FIFO_PATIENCE, "The FIFO is not read on");
                        std::thread::sleep(std::time::Duration::from_micros(300));
                    }
                    Err(error) => panic!("The reader of the FIFO is gone: {error}"),
                }
            }
        };
        put(format!("{}\n", self.header).as_bytes());
        let start = std::time::Instant::now();
        let interval = std::time::Duration::from_secs(1) * self.fps.1 / self.fps.0;
        for (index, frame) in self.frames.iter().cycle().take(count).enumerate() {
            let due = start + interval * index as u32;
            std::thread::sleep(due.saturating_duration_since(std::time::Instant::now()));
            put(b"FRAME\n");
            put(frame);
        }
    }
}
