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
    assert_eq!(report["body_bytes"], 4096);
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
