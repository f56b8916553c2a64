//! The catalogue from ConfigMaps.

use k8s_openapi::api::{core::v1::ConfigMap, events::v1::Event};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use serde_json::json;

use crate::lab::{Lab, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn a_labelled_configmap_is_the_catalogue_and_a_mistake_in_it_changes_nothing() {
    let lab = Lab::new("catalog").await;
    let _controller = lab.controller(None, "rowlock=info");
    let maps = lab.api::<ConfigMap>();
    let good = "types:\n  - {name: a, command: [x]}\n  - {name: b, command: [x]}\nschedules:\n  - {name: s, type: a, every: 1h}\n";
    let metadata = json!({"name": "types", "labels": {"rowlock.dev/job-types": "true"}});
    let map: ConfigMap = serde_json::from_value(json!({"metadata": metadata, "data": {"types.yaml": good}})).unwrap();
    maps.create(&PostParams::default(), &map).await.unwrap();
    let is = |types: &'static str, schedules: i64| {
        let lab = &lab;
        async move {
            let names = "SELECT coalesce(string_agg(name, ',' ORDER BY name), '') FROM rowlock.job_types";
            lab.one::<String>(names, &[]).await == types
                && lab.one::<i64>("SELECT count(*) FROM rowlock.schedules", &[]).await == schedules
        }
    };
    let waited = eventually("it is loaded", || is("a,b", 1)).await;
    println!("loaded {waited:?} after the ConfigMap was made");
    let put = async |text: &str| {
        let patch = Patch::Merge(json!({"data": {"types.yaml": text}}));
        maps.patch("types", &PatchParams::default(), &patch).await.unwrap();
    };
    put("types:\n  - name: c\n    command: [x]\n    tiemout: 1s\n").await;
    eventually("an Event tells key and line", || async {
        let events = lab.api::<Event>().list(&ListParams::default()).await.unwrap();
        events
            .into_iter()
            .filter(|e| e.reason.as_deref() == Some("InvalidCatalog"))
            .filter_map(|e| e.note)
            .any(|n| n.starts_with("types.yaml: ") && n.contains("line 4") && n.contains("tiemout"))
    })
    .await;
    let counted = "SELECT count(*) FROM rowlock.metrics_v1() WHERE what = 'scaler_error' AND label = 'invalid_catalog' AND value >= 1";
    eventually("it is counted", || async { lab.one::<i64>(counted, &[]).await == 1 }).await;
    assert!(is("a,b", 1).await, "the last good version stays");
    put("types:\n  - {name: a, command: [x]}\n").await;
    eventually("what was taken out has ended", || is("a", 0)).await;
    maps.delete("types", &DeleteParams::default()).await.unwrap();
    eventually("nothing is left", || is("", 0)).await;
}
