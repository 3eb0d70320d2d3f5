//! How pixels reach a oneVPL device: imported by the driver, imported by the runtime, or copied once.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests stop the test")]

mod common;

use common::vpl::{Machine, NODE, Pool, calls, give, idrs_of_all, on, on_node, run_kept, va_calls};
use common::{Keep, small};
use kernel_c_encode::encoder::Encoder;
use kernel_c_encode::select::open;
use kernel_c_encode::settings::EncoderSettings;
use shm_protocol::frame::Codec;
use std::path::Path;
use std::time::Duration;

fn vpl(settings: &EncoderSettings) -> Box<dyn Encoder> {
    open("vpl", settings).unwrap().encoder
}

#[test]
fn memory_that_the_driver_takes_is_imported_once_a_buffer_and_nothing_is_copied() {
    const TEST: &str = "memory_that_the_driver_takes_is_imported_once_a_buffer_and_nothing_is_copied";
    on(Machine::Hardware, TEST, &[], |folder| {
        let settings = on_node(320, 192);
        let pool = Pool::new(settings.format);
        let (mut encoder, mut sink) = (vpl(&settings), Keep::default());
        // Black in our mapping: what is coded can only come from the file.
        let black = vec![0; pool.frame_bytes];
        let surfaces = |call| va_calls(folder, call).len();
        for index in 0..12 {
            pool.give(encoder.as_mut(), index, 1, &black, &mut sink);
        }
        assert_eq!(idrs_of_all(&sink, 12), [0]);
        assert_eq!(encoder.copied_bytes(), 0, "{}", encoder.path());
        assert!(encoder.path().contains("DMA-BUF imported, nothing copied"), "{}", encoder.path());
        let (made, gone) = (surfaces("vaCreateSurfaces"), surfaces("vaDestroySurfaces"));
        assert_eq!((made, gone), (4, 0), "one for each buffer");
        let mut other = Keep::default();
        let mut copying = vpl(&settings);
        for index in 0..12 {
            give(
                copying.as_mut(),
                &settings.format,
                index,
                &pool.pictures[index as usize % 4],
                None,
                false,
                &mut other,
            )
            .unwrap();
        }
        assert!(sink.stream() == other.stream(), "imported and copied frames make the same stream");
        assert!(copying.copied_bytes() > 0);
        drop(copying);
        let before = (surfaces("vaCreateSurfaces"), surfaces("vaDestroySurfaces"));
        for index in 12..16 {
            pool.give(encoder.as_mut(), index, 2, &black, &mut sink);
        }
        let now = (surfaces("vaCreateSurfaces"), surfaces("vaDestroySurfaces"));
        assert_eq!((now.0 - before.0, now.1 - before.1), (4, 4), "a new generation replaces the old one");
        drop(encoder);
        assert_eq!(surfaces("vaCreateSurfaces"), surfaces("vaDestroySurfaces"), "nothing is left behind");
    });
}

#[test]
fn memory_that_the_driver_refuses_is_asked_about_once_and_copied() {
    const TEST: &str = "memory_that_the_driver_refuses_is_asked_about_once_and_copied";
    on(Machine::Hardware, TEST, &[("QUAD_VA_FIXTURE_IMPORT", "no")], |folder| {
        let settings = on_node(320, 192);
        let pool = Pool::new(settings.format);
        let (mut encoder, mut sink) = (vpl(&settings), Keep::default());
        for index in 0..12 {
            pool.give(encoder.as_mut(), index, 1, &pool.pictures[index as usize % 4], &mut sink);
        }
        assert_eq!(idrs_of_all(&sink, 12), [0]);
        assert!(encoder.path().contains("copied once into a mapped surface"), "{}", encoder.path());
        assert_eq!(encoder.copied_bytes(), 12 * 320 * 192 * 3 / 2);
        let refused = va_calls(folder, "vaCreateSurfaces").iter().filter(|call| call["status"] != "success").count();
        assert_eq!(refused, 1);
    });
}

/// The frames of a pool as they are without any import.
fn copied(settings: &EncoderSettings, pool: &Pool, count: u64) -> Vec<u8> {
    let (mut encoder, mut sink) = (vpl(settings), Keep::default());
    for index in 0..count {
        let bytes = &pool.pictures[index as usize % 4];
        give(encoder.as_mut(), &settings.format, index, bytes, None, false, &mut sink).unwrap();
    }
    encoder.flush(&mut sink).unwrap();
    sink.stream()
}

/// Surfaces of the runtime that were not given back when its encoders ended.
fn left_behind(folder: &Path) -> Vec<u64> {
    calls(folder, "ENCODE_Close").iter().map(|call| call["surfaces_lent"].as_u64().unwrap()).collect()
}

#[test]
fn a_runtime_that_imports_does_so_once_a_buffer_and_gets_its_surfaces_back() {
    const TEST: &str = "a_runtime_that_imports_does_so_once_a_buffer_and_gets_its_surfaces_back";
    on(Machine::Hardware, TEST, &[("LIMITS", "api=2.10")], |folder| {
        for depth in [1, 4] {
            let settings = EncoderSettings { async_depth: depth, ..on_node(320, 192) };
            let pool = Pool::new(settings.format);
            let before = calls(folder, "ImportFrameSurface").len();
            let (mut encoder, mut sink) = (vpl(&settings), Keep::default());
            // Black in our mapping: what is coded can only come from the file.
            let black = vec![0; pool.frame_bytes];
            for index in 0..12 {
                // As in a ring: a buffer is not filled again before its frame is out.
                while index + 1 - sink.out.len() as u64 > 4 {
                    encoder.collect(&mut sink, Duration::from_millis(20)).unwrap();
                }
                pool.give(encoder.as_mut(), index, 1, &black, &mut sink);
            }
            encoder.flush(&mut sink).unwrap();
            assert_eq!(idrs_of_all(&sink, 12), [0]);
            assert_eq!(encoder.copied_bytes(), 0, "{}", encoder.path());
            assert!(encoder.path().contains("imported by ImportFrameSurface, nothing copied"), "{}", encoder.path());
            let imports = calls(folder, "ImportFrameSurface");
            let imports = &imports[before..];
            assert_eq!(imports.len(), 4, "one for each buffer");
            for call in imports {
                let fields = [&call["status"], &call["component"], &call["SurfaceType"], &call["SurfaceFlags"]];
                // MFX_SURFACE_COMPONENT_ENCODE, MFX_SURFACE_TYPE_VAAPI, MFX_SURFACE_FLAG_IMPORT_SHARED.
                assert_eq!(fields.map(|field| field.as_i64().unwrap()), [0, 1, 3, 0x10], "{call}");
            }
            assert!(sink.stream() == copied(&settings, &pool, 12), "the same pictures as by a copy");
            // A new generation of the pool: the old surfaces go, those of the runtime first.
            for index in 12..16 {
                pool.give(encoder.as_mut(), index, 2, &black, &mut sink);
            }
            encoder.flush(&mut sink).unwrap();
            drop(encoder);
            let (made, gone) = (va_calls(folder, "vaCreateSurfaces"), va_calls(folder, "vaDestroySurfaces"));
            assert_eq!(made.len(), gone.len(), "nothing is left behind");
        }
        let submitted = calls(folder, "EncodeFrameAsync");
        let own = submitted.iter().filter(|call| call["internal"] == true).count();
        assert!((24..=32).contains(&own), "{own} of 32 frames as surfaces of the runtime");
        assert!(left_behind(folder).iter().all(|surfaces| *surfaces == 0), "{:?}", left_behind(folder));
    });
}

#[test]
fn a_runtime_that_does_not_import_is_asked_once_and_the_allocator_is_the_way() {
    const TEST: &str = "a_runtime_that_does_not_import_is_asked_once_and_the_allocator_is_the_way";
    // Without it; with it, but the rows of the pool end with the picture: smaller than whole macroblocks.
    for (limits, height, asked) in [("api=2.10,import=no", 192, 0), ("api=2.9", 192, 0), ("api=2.10", 180, 1)] {
        let height_text = height.to_string();
        let asked_text = asked.to_string();
        let variables = [("LIMITS", limits), ("TEST_HEIGHT", &height_text), ("TEST_ASKED", &asked_text)];
        on(Machine::Hardware, TEST, &variables, |folder| {
            let number = |name: &str| std::env::var(format!("QUAD_VPL_FIXTURE_TEST_{name}")).unwrap().parse().unwrap();
            let settings = on_node(320, number("HEIGHT"));
            let pool = Pool::new(settings.format);
            let (mut encoder, mut sink) = (vpl(&settings), Keep::default());
            let black = vec![0; pool.frame_bytes];
            for index in 0..12 {
                pool.give(encoder.as_mut(), index, 1, &black, &mut sink);
            }
            assert_eq!(idrs_of_all(&sink, 12), [0]);
            assert_eq!(encoder.copied_bytes(), 0, "{}", encoder.path());
            assert!(encoder.path().contains("DMA-BUF imported, nothing copied"), "{}", encoder.path());
            let asked: usize = number("ASKED") as usize;
            let imports = calls(folder, "ImportFrameSurface");
            assert_eq!((imports.len(), imports.iter().all(|call| call["status"] != 0)), (asked, true));
            assert!(sink.stream() == copied(&settings, &pool, 12));
        });
        if std::env::var("QUAD_VPL_TEST_CHILD").is_ok() {
            return;
        }
    }
}

#[test]
fn surfaces_of_the_runtime_are_given_back_also_when_the_device_is_lost() {
    const TEST: &str = "surfaces_of_the_runtime_are_given_back_also_when_the_device_is_lost";
    let variables = [("LIMITS", "api=2.10"), ("FAULTS", "encode:6=lost@session")];
    on(Machine::Hardware, TEST, &variables, |folder| {
        let settings = on_node(320, 192);
        let pool = Pool::new(settings.format);
        let (mut encoder, mut sink) = (vpl(&settings), Keep::default());
        for index in 0..12 {
            pool.give(encoder.as_mut(), index, 1, &pool.pictures[index as usize % 4], &mut sink);
        }
        assert_eq!(idrs_of_all(&sink, 12), [0, 6]);
        drop(encoder);
        assert!(left_behind(folder).iter().all(|surfaces| *surfaces == 0), "{:?}", left_behind(folder));
    });
}

#[test]
fn a_surface_that_cannot_be_mapped_is_filled_by_an_image_with_the_same_pixels() {
    const TEST: &str = "a_surface_that_cannot_be_mapped_is_filled_by_an_image_with_the_same_pixels";
    on(Machine::Hardware, TEST, &[("QUAD_VA_FIXTURE_DERIVE", "no")], |folder| {
        let settings = EncoderSettings { device: Some(NODE.into()), ..small(Codec::H264) };
        let (mut encoder, mut sink) = (vpl(&settings), Keep::default());
        run_kept(encoder.as_mut(), &settings.format, 10, &[4], &mut sink);
        assert_eq!(idrs_of_all(&sink, 10), [0, 4]);
        assert_eq!(encoder.copied_bytes(), 10 * 320 * 180 * 3 / 2);
        assert!(encoder.path().contains("copied once into an image"), "{}", encoder.path());
        assert_eq!(va_calls(folder, "vaPutImage").len(), 10);
        // By pointer nothing of that has a part in it.
        let mut by_pointer = vpl(&EncoderSettings { device: None, ..settings.clone() });
        let mut other = Keep::default();
        run_kept(by_pointer.as_mut(), &settings.format, 10, &[4], &mut other);
        assert!(sink.stream() == other.stream());
        drop(encoder);
        let count = |call| va_calls(folder, call).iter().filter(|call| call["status"] == "success").count();
        assert_eq!(count("vaCreateImage"), count("vaDestroyImage"), "no image is left behind");
    });
}
