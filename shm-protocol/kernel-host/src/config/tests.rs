use std::collections::BTreeSet;
use std::path::PathBuf;

use proptest::prelude::*;

use super::*;

fn sets(list: &[&str]) -> Vec<String> {
    list.iter().map(|s| (*s).to_owned()).collect()
}

fn load(list: &[&str]) -> Result<Config, ConfigError> {
    Config::load(None, &sets(list))
}

fn error(text: &str) -> String {
    match Config::from_toml(text) {
        Ok(_) => format!("accepted: {text}"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn no_configuration_is_the_pattern_to_rtp_and_http() {
    let config = Config::load(None, &[]).unwrap();
    assert_eq!(config, Config::default());
    let capture = config.capture("main").unwrap();
    assert_eq!((capture.source, capture.width, capture.height), (Source::Pattern, Some(1280), Some(720)));
    assert_eq!((capture.fps, capture.barcode, capture.slots), (Rational::new(60, 1), true, 16));
    assert_eq!(config.encode("main").unwrap().bitrate_kbps, 8000);
    let net = config.net("main").unwrap();
    assert_eq!(net.rtp.as_ref().unwrap().destination.to_string(), "127.0.0.1:5004");
    assert_eq!(net.http.as_ref().unwrap().listen.to_string(), "127.0.0.1:8080");
    assert!(net.rdp.is_none() && net.srt.is_none() && net.record.is_none());
    assert_eq!(
        config.kernels().iter().map(KernelName::short).collect::<Vec<_>>(),
        ["capture", "process", "encode", "net"]
    );
}

#[test]
fn every_form_of_a_frame_rate_and_a_gop_is_understood() {
    let config = Config::from_toml("[capture]\nfps = \"60000/1001\"\n[encode]\ngop = 1").unwrap();
    assert_eq!(config.capture("main").unwrap().fps, Rational::new(60000, 1001));
    assert_eq!(config.encode("main").unwrap().gop, Gop::Frames(1));
    for (given, frames) in [("\"2s\"", Some(120)), ("\"500ms\"", Some(30)), ("48", Some(48)), ("\"infinite\"", None)] {
        let config = Config::from_toml(&format!("[encode]\ngop = {given}")).unwrap();
        assert_eq!(config.encode("main").unwrap().gop.frames(Rational { num: 60000, den: 1001 }), frames, "{given}");
    }
    for bad in ["0", "\"0/1\"", "\"60/0\"", "-5", "60.0", "\"sixty\"", "true", "\"4294967295\""] {
        assert!(error(&format!("[capture]\nfps = {bad}")).starts_with("capture.fps = "), "{bad}");
    }
    for bad in ["0", "\"2\"", "\"-2s\"", "\"nan s\"", "\"1e99s\"", "\"forever\""] {
        assert!(error(&format!("[encode]\ngop = {bad}")).starts_with("encode.gop = "), "{bad}");
    }
}

#[test]
fn an_unknown_key_names_the_nearest_known_one() {
    for (text, given, nearest) in [
        ("[encode]\nbitrate = 5", "encode.bitrate", "encode.bitrate_kbps"),
        ("[encode]\nbitrte_kbps = 5", "encode.bitrte_kbps", "encode.bitrate_kbps"),
        ("[encode]\nbitrte = 5", "encode.bitrte", "encode.bitrate_kbps"),
        ("[encoder]\ncodec = \"h264\"", "encoder", "encode"),
        ("bitrate_kbps = 5", "bitrate_kbps", "encode.bitrate_kbps"),
        ("[net.rtp]\ndestinatoin = \"\"", "net.rtp.destinatoin", "net.rtp.destination"),
        ("[net.htpp]\nlisten = \"\"", "net.htpp", "net.http"),
        ("[rtp]\npacing = true", "rtp", "net.rtp"),
        ("[encode.instances.web]\ncodek = \"h264\"", "encode.instances.web.codek", "encode.instances.web.codec"),
        ("[encode.instance.web]\ncodec = \"h264\"", "encode.instance", "encode.instances"),
        ("[capture]\nlop = true", "capture.lop", "capture.loop"),
    ] {
        assert_eq!(error(text), format!("Unknown key {given}; the nearest known key is {nearest}"));
    }
    let from_set = load(&["encoder.codec=h264"]).unwrap_err().to_string();
    assert_eq!(from_set, "Unknown key encoder.codec; the nearest known key is encode.codec");
}

#[test]
fn a_wrong_value_says_what_was_given_and_what_is_allowed() {
    for (text, message) in [
        ("[capture]\npolicy = \"lively\"", "capture.policy = \"lively\" is not possible: \"live\" or \"lossless\""),
        ("[capture]\nslots = 3", "capture.slots = 3 is not possible: an integer from 4 to 64"),
        (
            "[encode]\nbitrate_kbps = \"much\"",
            "encode.bitrate_kbps = \"much\" is not possible: an integer of at least 1",
        ),
        ("[capture]\nloop = 1", "capture.loop = 1 is not possible: true or false"),
        ("capture = 5", "capture = 5 is not possible: a table [capture]"),
        ("[net]\nrtp = 5", "net.rtp = 5 is not possible: a table [net.rtp]"),
        ("[encode]\ninstances = 5", "encode.instances = 5 is not possible: a table [encode.instances]"),
    ] {
        assert_eq!(error(text), message);
    }
    assert!(error("[capture]\nformat = \"nv21\"").ends_with("\"rgb24\" or \"p010\""));
    assert_eq!(error("a = 1\nb = = 2").split(": ").next(), Some("Configuration line 2 is not TOML"));
}

#[test]
fn overrides_on_the_command_line_give_the_same_errors_as_the_file() {
    let from_set = load(&["capture.slots=99"]).unwrap_err().to_string();
    assert_eq!(from_set, error("[capture]\nslots = 99"));
    assert!(matches!(load(&["capture.slots"]), Err(ConfigError::SetSyntax { .. })));
    assert!(matches!(load(&["=5"]), Err(ConfigError::SetSyntax { .. })));
}

#[test]
fn bare_words_on_the_command_line_are_text() {
    let config = load(&[
        "capture.fps=60000/1001",
        "encode.codec=h264",
        "encode.gop=3s",
        "encode.level=4.1",
        "encode.preset=7",
        "encode.cpus=0-1",
        "net.rtp.destination=[::1]:6000",
        "net.http.enabled=false",
        "net.input=\"encode.main\"",
        "encode.bitrate_kbps=6000",
        "encode.bitrate_kbps=7000",
    ])
    .unwrap();
    let encode = config.encode("main").unwrap();
    assert_eq!((encode.level.as_deref(), encode.preset.as_deref()), (Some("4.1"), Some("7")));
    assert_eq!(encode.cpus.as_ref().unwrap().to_string(), "0-1");
    assert_eq!(encode.bitrate_kbps, 7000, "the last one counts");
    let net = config.net("main").unwrap();
    assert_eq!(net.rtp.as_ref().unwrap().destination, HostPort { host: "::1".into(), port: 6000 });
    assert!(net.http.is_none());
    // A line break must not smuggle a second key in.
    assert!(load(&["encode.bitrate_kbps=1\nslots=5"]).is_err());
}

#[test]
fn further_instances_have_the_same_keys_and_an_input() {
    let config = Config::from_toml(
        "[process.instances.full]\nrange = \"full\"\n[encode.instances.web]\ninput = \"process.full\"\nbitrate_kbps = 2000\n\
         [net.http]\nencode = \"web\"\n[net.instances.second.rtp]\ndestination = \"127.0.0.1:5010\"\nencode = \"web\"",
    )
    .unwrap();
    let web = config.encode("web").unwrap();
    assert_eq!((web.bitrate_kbps, web.codec, web.input.to_string().as_str()), (2000, VideoCodec::H264, "process.full"));
    assert_eq!(config.instances(Kind::Encode).collect::<Vec<_>>(), ["main", "web"]);
    let second = config.net("second").unwrap();
    assert!(second.http.is_none(), "outputs of further instances are on only when named");
    let name = |text: &str| text.parse::<KernelName>().unwrap();
    assert_eq!(config.inputs(&name("net")), [name("encode.main"), name("encode.web")]);
    assert_eq!(config.inputs(&name("net.second")), [name("encode.web")]);
    assert_eq!(config.readers(&name("encode.web")), [name("net"), name("net.second")]);
    assert_eq!(config.readers(&name("capture")), [name("process"), name("process.full")]);
    assert_eq!(config.kernels().first(), Some(&name("capture")));
}

#[test]
fn values_that_do_not_go_together_are_refused() {
    for (text, start) in [
        ("[capture]\nwidth = 1280", "capture.height: Is missing"),
        ("[process]\nheight = 720", "process.width: Is missing"),
        ("[capture]\nwidth = 1281\nheight = 720", "capture.width: Frame size 1281x720 is not possible in nv12"),
        ("[process]\nwidth = 1280\nheight = 721", "process.width: Frame size 1280x721"),
        ("[capture]\nsource = \"file\"", "capture.path: Is missing"),
        ("[capture]\npath = \"a.y4m\"", "capture.path: Means nothing to source = \"pattern\""),
        ("[capture]\nloop = true", "capture.loop: Only"),
        ("[encode]\nbackend = \"openh264\"\ncodec = \"av1\"", "encode.backend: openh264 makes only h264"),
        ("[encode]\nrate_control = \"cqp\"", "encode.qp: Is missing"),
        ("[encode]\nrate_control = \"cqp\"\nqp = 52", "encode.qp: 52 is not possible: 0 to 51"),
        ("[encode]\nqp = 20", "encode.qp: Means nothing to rate_control = \"cbr\""),
        ("[encode]\nmax_bitrate_kbps = 10", "encode.max_bitrate_kbps: 10 is below"),
        ("[encode]\ninput = \"process.none\"", "encode.input: There is no process.none; configured are process.main"),
        ("[encode]\ninput = \"capture.main\"", "encode.input: capture.main is no process instance"),
        ("[net.rtp]\nencode = \"web\"", "net.rtp.encode: There is no encode.web; configured are encode.main"),
        ("[net]\ninput = \"encode.web\"", "net.input: There is no encode.web"),
        ("[net.record]", "net.record.path: Is missing"),
        ("[encode.instances.main]", "encode.instances.main: The instance main is [encode] itself"),
        ("[encode.instances.\"a.b\"]", "encode.instances.a.b: Name \"a.b\" is not possible"),
    ] {
        let message = error(text);
        assert!(message.starts_with(start), "{text}\n gave {message}\n not {start}");
    }
}

#[test]
fn two_outputs_on_one_port_are_refused() {
    for second in [
        "http]\nlisten = \"127.0.0.1:8080\"",
        "http]\nlisten = \"0.0.0.0:8080\"",
        "rtp]\ndestination = \"127.0.0.1:5004\"",
    ] {
        assert!(error(&format!("[net.instances.b.{second}")).contains("is already used by net."), "{second}");
    }
    // The RTCP port of the first is the RTP port of the second.
    assert!(error("[net.instances.b.rtp]\ndestination = \"127.0.0.1:5005\"").contains("port 5005 of 127.0.0.1"));
    assert!(Config::from_toml("[net.instances.b.rtp]\ndestination = \"127.0.0.1:5006\"").is_ok());
    assert!(Config::from_toml("[net.instances.b.http]\nlisten = \"127.0.0.2:8080\"").is_ok());
    assert!(Config::from_toml("[net.instances.b.http]\nlisten = \"127.0.0.1:0\"").is_ok());
}

#[test]
fn cpus_that_are_not_there_are_refused() {
    let online: crate::pin::CpuSet = "0-1".parse().unwrap();
    assert!(load(&["encode.cpus=1"]).unwrap().validate_cpus(&online).is_ok());
    let config = Config::from_toml("[encode.instances.web]\ncpus = [0, 7]").unwrap();
    assert_eq!(
        config.validate_cpus(&online).unwrap_err().to_string(),
        "encode.instances.web.cpus names cpu 7, but this machine has cpus 0-1"
    );
    for bad in ["[]", "[-1]", "\"3-1\"", "\"\"", "[1.5]", "[99999999]"] {
        assert!(error(&format!("[net]\ncpus = {bad}")).starts_with("net.cpus = "), "{bad}");
    }
}

#[test]
fn by_reference_frames_take_a_quarter_of_the_slots() {
    assert_eq!(Config::default().by_reference_depth("main"), Some(4));
    assert_eq!(load(&["capture.slots=4"]).unwrap().by_reference_depth("main"), Some(1));
    assert_eq!(load(&["capture.slots=64", "process.slots=8"]).unwrap().by_reference_depth("main"), Some(8));
    assert_eq!(Config::default().by_reference_depth("none"), None);
}

#[test]
fn the_effective_configuration_means_the_same_when_read_again() {
    let text = "hang_timeout_ms = 500\n[capture]\nsource = \"file\"\npath = \"-\"\nfps = \"30000/1001\"\n\
                [process]\ncrop = \"640x360+2+4\"\nwidth = 320\nheight = 180\n[encode.instances.web]\ncpus = [1]\n\
                [net.http]\nenabled = false\n[net.instances.web.http]\nlisten = \"127.0.0.1:9000\"\nencode = \"web\"\n\
                [net.record]\npath = \"a \\\"b\\\".mp4\"";
    for config in [Config::default(), Config::from_toml(text).unwrap()] {
        let again = Config::from_toml(&config.effective_toml()).unwrap();
        assert_eq!(again, config, "{}", config.effective_toml());
    }
}

#[test]
fn secrets_are_not_shown() {
    let config = load(&["net.http.token=hunter2"]).unwrap();
    assert_eq!(config.net("main").unwrap().http.as_ref().unwrap().token.as_ref().unwrap().expose(), "hunter2");
    assert!(!config.effective_toml().contains("hunter2"));
    assert!(!format!("{config:?}").contains("hunter2"));
}

#[test]
fn keys_are_found_by_where_they_stand() {
    let web = locate("encode.instances.web.bitrate_kbps").unwrap();
    assert_eq!(web.kernel.unwrap().to_string(), "encode.web");
    assert!(web.info.live);
    let rtp = locate("net.rtp.destination").unwrap();
    assert_eq!((rtp.kernel.unwrap(), rtp.info.live), (KernelName::main(Kind::Net), true));
    assert_eq!(locate("hang_timeout_ms").unwrap().kernel, None);
    assert!(locate("").is_err() && locate("encode").is_err() && locate("encode.instances.web").is_err());
    assert!(locate("encode..codec").is_err());
}

#[test]
fn overrides_survive_on_disk_and_lie_between_file_and_command_line() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("overrides.toml");
    assert!(Overrides::load(&path).unwrap().is_empty());
    let mut overrides = Overrides::default();
    overrides.set("encode.bitrate_kbps=5000").unwrap();
    overrides.set("encode.preset=fast \"x\"").unwrap();
    overrides.set("net.instances.b.rtp.destination=127.0.0.1:7000").unwrap();
    assert!(overrides.set("encode.bitrate=1").is_err());
    overrides.save(&path).unwrap();
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "no temporary file is left");
    let overrides = Overrides::load(&path).unwrap();

    let file = folder.path().join("quad.toml");
    std::fs::write(&file, "[encode]\nbitrate_kbps = 1000\nslices = 2\n").unwrap();
    let config = Config::load_with(Some(&file), &overrides, &[]).unwrap();
    let encode = config.encode("main").unwrap();
    assert_eq!((encode.bitrate_kbps, encode.slices, encode.preset.as_deref()), (5000, Some(2), Some("fast \"x\"")));
    let config = Config::load_with(Some(&file), &overrides, &sets(&["encode.bitrate_kbps=9000"])).unwrap();
    assert_eq!(config.encode("main").unwrap().bitrate_kbps, 9000);
}

#[test]
fn a_missing_file_is_named() {
    let error = Config::load(Some(&PathBuf::from("/nonexistent/quad.toml")), &[]).unwrap_err();
    assert_eq!(error.to_string(), "Cannot read configuration /nonexistent/quad.toml");
}

#[test]
fn hosts_and_ports_are_checked() {
    for good in ["127.0.0.1:5004", "[::1]:5004", "239.1.1.1:1", "viewer.lan:65535", "localhost:5004"] {
        assert_eq!(good.parse::<HostPort>().unwrap().to_string(), good);
    }
    for bad in
        ["", "5004", "127.0.0.1", "127.0.0.1:0", "127.0.0.1:65536", "::1:5004", "[::1:5004", "1.2.3:5", "a b:1", ":5"]
    {
        assert!(bad.parse::<HostPort>().is_err(), "{bad}");
    }
    assert_eq!("localhost:5004".parse::<HostPort>().unwrap().resolve().unwrap().port(), 5004);
}

/// The reference with each optional key, which stands there as `# key = …`, made a key.
fn reference() -> (String, String) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../docs/quad.toml");
    let text = std::fs::read_to_string(path).unwrap();
    let uncomment = |line: &str| -> String {
        let bare = line.strip_prefix("# ").unwrap_or(line);
        let key = bare.split(" = ").next().unwrap_or_default();
        let is_key = !key.is_empty() && key.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
        let is_table = bare.starts_with('[') && bare.ends_with(']');
        if line.starts_with("# ") && ((is_key && bare.contains(" = ")) || is_table) { bare } else { line }.to_owned()
    };
    let full = text.lines().map(uncomment).collect::<Vec<_>>().join("\n");
    (text, full)
}

#[test]
fn the_reference_as_it_stands_is_the_default_configuration() {
    let (text, _) = reference();
    assert_eq!(Config::from_toml(&text).unwrap(), Config::default());
}

#[test]
fn the_reference_names_every_key_and_no_other() {
    let (_, full) = reference();
    let table: Table = full.parse().unwrap();
    fn paths(table: &Table, at: &str, out: &mut BTreeSet<String>) {
        for (key, value) in table {
            let path = dotted(at, key);
            match value {
                toml::Value::Table(table) => paths(table, &path, out),
                _ => {
                    out.insert(path);
                }
            }
        }
    }
    let mut present = BTreeSet::new();
    paths(&table, "", &mut present);
    for path in &present {
        assert!(locate(path).is_ok(), "{path} of the reference is no key");
    }
    for key in keys() {
        assert!(present.contains(key.path), "{} is missing in the reference", key.path);
    }
}

#[test]
fn every_default_in_the_reference_is_the_real_one() {
    let (text, full) = reference();
    let (plain, full): (Table, Table) = (text.parse().unwrap(), full.parse().unwrap());
    let find = |table: &Table, path: &str| -> Option<toml::Value> {
        let (at, leaf) = path.rsplit_once('.').unwrap_or(("", path));
        let mut table = table.clone();
        for part in at.split('.').filter(|p| !p.is_empty()) {
            let toml::Value::Table(next) = table.remove(part)? else { return None };
            table = next;
        }
        table.remove(leaf)
    };
    for key in keys() {
        match &key.default {
            Some(default) => {
                let given = find(&full, key.path).unwrap().to_string();
                assert_eq!(&given, default, "{}", key.path);
            }
            // A key without a default stands there as an example, commented out.
            None => assert!(find(&plain, key.path).is_none(), "{} has no default", key.path),
        }
    }
}

#[test]
fn the_reference_with_every_optional_key_can_be_typed() {
    let (_, full) = reference();
    // The examples exclude one another in places; each section by itself must be typed without an error.
    match Config::from_toml(&full) {
        Ok(_) | Err(ConfigError::Conflict { .. }) => {}
        Err(other) => panic!("{other}"),
    }
}

#[test]
fn every_key_has_help_and_a_range_of_values() {
    let paths: BTreeSet<&str> = keys().iter().map(|k| k.path).collect();
    assert_eq!(paths.len(), keys().len(), "no key twice");
    for key in keys() {
        assert!(!key.help.is_empty() && !key.allowed.is_empty(), "{}", key.path);
        assert!(key.help.ends_with('.') && !key.help.contains("  "), "{}: {}", key.path, key.help);
    }
    let live: Vec<&str> = keys().iter().filter(|k| k.live).map(|k| k.path).collect();
    assert_eq!(live, ["capture.max_latency_ms", "encode.bitrate_kbps", "net.rtp.destination"]);
}

/// Values of every TOML type for any key.
fn any_value() -> impl Strategy<Value = String> {
    prop_oneof![
        any::<i64>().prop_map(|i| i.to_string()),
        any::<f64>().prop_map(|f| format!("{f:?}").to_lowercase()),
        any::<bool>().prop_map(|b| b.to_string()),
        ".{0,12}".prop_map(|s| toml::Value::String(s).to_string()),
        proptest::collection::vec(any::<i64>(), 0..4).prop_map(|v| format!("{v:?}")),
        "[0-9x+/:.s-]{0,14}".prop_map(|s| toml::Value::String(s).to_string()),
        Just("{ a = 1 }".to_owned()),
        Just("1979-05-27T07:32:00Z".to_owned()),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(512) })]

    #[test]
    fn garbage_text_never_panics(text in "(?s).{0,200}") {
        let _ = Config::from_toml(&text);
    }

    #[test]
    fn garbage_overrides_never_panic(given in proptest::collection::vec("[a-z._]{0,20}=?.{0,20}", 0..4)) {
        let _ = Config::load(None, &given);
    }

    #[test]
    fn any_value_for_any_key_is_typed_or_refused(index in any::<prop::sample::Index>(), value in any_value()) {
        let key = index.get(keys());
        let (at, leaf) = key.path.rsplit_once('.').unwrap_or(("", key.path));
        let text = if at.is_empty() { format!("{leaf} = {value}") } else { format!("[{at}]\n{leaf} = {value}") };
        match Config::from_toml(&text) {
            Ok(config) => {
                // What was accepted is written so that it is accepted again, except the secret that is left out.
                let again = Config::from_toml(&config.effective_toml()).unwrap();
                prop_assert!(again == config || key.path == "net.http.token");
            }
            Err(ConfigError::Value { key: named, .. }) => prop_assert!(named.starts_with(key.path)),
            Err(ConfigError::Conflict { .. } | ConfigError::Syntax { .. }) => {}
            Err(other) => prop_assert!(false, "{other}"),
        }
    }
}
