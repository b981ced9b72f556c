//! The promises of `cargo xtask bench`.

#![allow(clippy::unwrap_used)]

use std::process::Command;

use serde_json::{Value, json};

/// How fast anything is depends on what else the machine does: that is nothing for a test.
#[test]
#[ignore = "tier api: needs a kube-apiserver"]
fn the_benchmark_measures_three_servers_and_judges_the_targets() {
    let output = Command::new(env!("CARGO_BIN_EXE_xtask"))
        .args(["bench", "admission", "--quick", "--json"])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["optimized"], false);
    assert_eq!((&report["body_bytes"], &report["protocol"]), (&json!(4096), &json!("http1")));
    let servers = report["servers"].as_array().unwrap();
    let names: Vec<_> = servers.iter().map(|server| json!([server["name"], server["bindings"]])).collect();
    assert_eq!(names, [json!(["floor", null]), json!(["webhook", 10]), json!(["webhook", 100])]);
    for server in servers {
        // Nothing with TLS in it runs in less.
        assert!(server["memory_bytes"].as_u64().unwrap() > 1_000_000, "{server}");
        assert!(server["memory_peak_bytes"].as_u64().unwrap() > 1_000_000, "{server}");
        let loads = server["loads"].as_array().unwrap();
        assert_eq!(loads.iter().map(|load| &load["clients"]).collect::<Vec<_>>(), [1, 8, 32]);
        for load in loads {
            assert!(load["requests"].as_u64().unwrap() >= load["clients"].as_u64().unwrap(), "{load}");
            for figure in ["requests_per_second", "p50_ms", "cpu_ms_per_request"] {
                assert!(load[figure].as_f64().unwrap() > 0.0, "{figure} of {load}");
            }
            let of_floor = &load["requests_per_second_of_floor"];
            assert!(of_floor["least"].as_f64().unwrap() > 0.0, "{load}");
        }
    }
    let goals: Vec<_> = report["targets"].as_array().unwrap().iter().map(|target| &target["goal"]).collect();
    let of_each_load = ["at least 0.75", "at most 1.5", "at least 0.95"];
    assert_eq!(goals, [&of_each_load[..], &of_each_load, &of_each_load, &["at most 20"]].concat());
}

/// Counts do not depend on what else the machine does.
#[test]
#[ignore = "tier api: needs a kube-apiserver"]
fn the_benchmark_of_the_controller_goes_through_its_phases_and_counts_what_others_have_seen() {
    let output = Command::new(env!("CARGO_BIN_EXE_xtask"))
        .args(["bench", "controller", "--quick", "--bindings", "20", "--token-lifetime", "60", "--json"])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["optimized"], false);
    assert_eq!(report["writes"].as_array().unwrap().len(), 14);
    assert!(
        report["writes"].as_array().unwrap().iter().all(|way| way["writes_per_second"].as_f64() > Some(0.0))
    );
    let size = &report["sizes"][0];
    assert_eq!((&size["bindings"], &size["tokens"]), (&json!(20), &json!(2)));
    assert!(size["floor_seconds"][0].as_f64() > Some(0.0) && size["start_seconds"][0].as_f64() > Some(0.0));
    for phase in ["start", "refresh"] {
        let phase = &size[phase];
        let secrets: u64 = phase["requests"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|line| {
                line["resource"] == "secrets" && ["POST", "PUT"].map(Value::from).contains(&line["verb"])
            })
            .filter_map(|line| line["count"].as_u64())
            .sum();
        assert_eq!(secrets, 20, "one Secret a binding: {phase}");
        assert!(phase["writes"].as_u64() >= Some(40) && phase["mints"].as_u64() >= Some(2), "{phase}");
        assert!(phase["memory_peak_bytes"].as_u64() >= phase["memory_bytes"].as_u64(), "{phase}");
    }
    assert_eq!(size["start"]["mints"], 2, "one for ten bindings that need the same token");
    assert_eq!((&size["restart"]["writes"], &size["restart"]["mints"]), (&json!(0), &json!(0)));
    assert!(size["lag"]["worst_seconds"].as_f64() >= size["lag"]["mean_seconds"].as_f64());
    let goals: Vec<_> = report["targets"].as_array().unwrap().iter().map(|target| &target["goal"]).collect();
    let expected =
        ["exactly 2", "exactly 1", "exactly 0", "exactly 0", "exactly 2", "exactly 0", "at most 60"];
    assert_eq!(goals, expected);
}
