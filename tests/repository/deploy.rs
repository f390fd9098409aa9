//! Checks the manifests, the chart, the dashboard and the alerts of `deploy/`, and compose.yaml. They parse, and their
//! names and numbers agree with the code and with each other.

use std::{
    collections::BTreeSet,
    fs,
    path::Path,
    process::{Command, Output},
};

use ringhub::{
    config::{Config, Flags, Given, SETTINGS, Setting, Settings},
    metrics,
};
use serde_json::Value;
use yaml_rust2::{Yaml, YamlLoader};

use crate::{
    assert_none,
    files::{root, texts},
};

/// Returns a file of the project.
fn read(name: &str) -> String {
    fs::read_to_string(root().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// Returns the documents of a file of YAML.
fn yaml(name: &str) -> Vec<Yaml> {
    YamlLoader::load_from_str(&read(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// Returns the names of the files below a folder, with one of these endings.
fn files_below(folder: &str, endings: &[&str]) -> Vec<String> {
    let names = texts().map(|(path, _)| path).filter(|path| path.starts_with(folder));
    let names = names.filter(|path| path.extension().is_some_and(|ending| endings.iter().any(|one| ending == *one)));
    names.map(|path| path.to_str().unwrap().to_string()).collect()
}

/// Returns the value at a path of keys. A number in the path is an index into a list.
fn at<'a>(document: &'a Yaml, path: &str) -> &'a Yaml {
    let value = path.split('.').fold(document, |value, key| match key.parse::<usize>() {
        Ok(place) => &value[place],
        Err(_) => &value[key],
    });
    assert!(!value.is_badvalue(), "no {path}");
    value
}

fn text<'a>(document: &'a Yaml, path: &str) -> &'a str {
    at(document, path).as_str().unwrap_or_else(|| panic!("{path} is no text"))
}

/// Returns the one document of this kind and name.
fn of_kind(documents: &[Yaml], kind: &str, name: &str) -> Yaml {
    let is_it = |document: &&Yaml| text(document, "kind") == kind && text(document, "metadata.name") == name;
    documents.iter().find(is_it).unwrap_or_else(|| panic!("no {kind} {name}")).clone()
}

#[test]
fn every_manifest_parses_and_says_what_it_is() {
    let manifests = files_below("deploy/kubernetes", &["yaml"]);
    assert!(manifests.len() >= 4, "{manifests:?}");
    for name in &manifests {
        for document in yaml(name) {
            for key in ["apiVersion", "kind", "metadata.name"] {
                assert!(!text(&document, key).is_empty(), "{name}");
            }
        }
    }
    let charts = ["deploy/helm/ringhub/Chart.yaml", "deploy/helm/ringhub/values.yaml"];
    for name in charts.into_iter().chain(["deploy/prometheus/alerts.yaml", "compose.yaml"]) {
        assert_eq!(yaml(name).len(), 1, "{name}");
    }
    let chart = &yaml(charts[0])[0];
    assert_eq!(text(chart, "appVersion"), env!("CARGO_PKG_VERSION"));
}

/// Returns the names of all metrics that a server can show, with the endings of a histogram's series.
fn metric_names() -> BTreeSet<String> {
    let io = metrics::BackendInfo { backend: "io_uring".into(), reason: "chosen".into() };
    let text = metrics::text::prometheus(&[Default::default()], &Default::default(), &io);
    let mut names = BTreeSet::new();
    for line in text.lines() {
        let Some(rest) = line.strip_prefix("# TYPE ") else { continue };
        let (name, kind) = rest.split_once(' ').unwrap();
        match kind {
            "histogram" => names.extend(["_bucket", "_count", "_sum"].map(|ending| format!("{name}{ending}"))),
            _ => _ = names.insert(name.to_string()),
        }
    }
    // A kernel before 6.2 does not tell the number of open descriptors.
    names.insert("process_open_fds".into());
    assert!(names.len() > 50, "{names:?}");
    names
}

/// Returns the words of a query that look like one of this server's metrics.
fn metrics_in(query: &str) -> impl Iterator<Item = &str> {
    let words = query.split(|c: char| !c.is_ascii_alphanumeric() && c != '_' && c != ':');
    words.filter(|word| word.starts_with("ringhub_") || word.starts_with("process_"))
}

/// Returns the names of labels in the selectors and groupings of a query.
fn labels_in(query: &str) -> BTreeSet<String> {
    let mut labels = BTreeSet::new();
    for selector in query.split('{').skip(1).filter_map(|rest| rest.split('}').next()) {
        let keys = selector.split(',').filter_map(|matcher| matcher.split(['=', '!']).next());
        labels.extend(keys.filter(|key| !key.is_empty()).map(Into::into));
    }
    for grouping in query.split("by (").skip(1).filter_map(|rest| rest.split(')').next()) {
        labels.extend(grouping.split(',').map(|label| label.trim().into()));
    }
    labels
}

/// Returns the queries of the dashboard and the alerts, each with its place.
fn queries() -> Vec<(String, String)> {
    let dashboard: Value = serde_json::from_str(&read("deploy/grafana/ringhub.json")).unwrap();
    let mut queries = Vec::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        let title = panel["title"].as_str().unwrap();
        for target in panel["targets"].as_array().into_iter().flatten() {
            queries.push((format!("panel {title}"), target["expr"].as_str().unwrap().to_string()));
        }
    }
    for variable in dashboard["templating"]["list"].as_array().unwrap() {
        if let Some(query) = variable["query"]["query"].as_str() {
            queries.push((format!("variable {}", variable["name"]), query.to_string()));
        }
    }
    let alerts = &yaml("deploy/prometheus/alerts.yaml")[0];
    for rule in at(alerts, "groups.0.rules").as_vec().unwrap() {
        queries.push((format!("alert {}", text(rule, "alert")), text(rule, "expr").to_string()));
    }
    queries
}

#[test]
fn every_query_names_metrics_and_labels_that_exist() {
    let names = metric_names();
    let labels = ["instance", "job", "shard", "cause", "kind", "outcome", "policy", "le"];
    let queries = queries();
    assert!(queries.len() > 40, "{} queries", queries.len());
    let mut offenders = Vec::new();
    for (place, query) in &queries {
        let mut used = metrics_in(query).peekable();
        if used.peek().is_none() && !query.starts_with("up{") {
            offenders.push(format!("{place}: no metric in {query}"));
        }
        offenders.extend(used.filter(|name| !names.contains(*name)).map(|name| format!("{place}: no metric {name}")));
        let unknown = labels_in(query).into_iter().filter(|label| !labels.contains(&&**label));
        offenders.extend(unknown.map(|label| format!("{place}: no label {label}")));
    }
    assert_none(&offenders);
    assert_eq!(metrics_in("rate(ringhub_nothing_total[5m])").next(), Some("ringhub_nothing_total"));
    assert_eq!(
        labels_in("sum by (le, x) (a{shard=\"1\",y!=\"2\"})").into_iter().collect::<Vec<_>>(),
        ["le", "shard", "x", "y"]
    );
}

/// The alerts of limits compare with gauges: a number would be the limit of one installation.
#[test]
fn alerts_of_limits_follow_the_server() {
    let alerts = queries().into_iter().filter(|(place, _)| place.starts_with("alert "));
    let shares: Vec<(String, String)> = alerts.filter(|(_, query)| query.contains("0.9 * ")).collect();
    for limit in ["ringhub_connections_max", "process_max_fds", "ringhub_lane_entries_max"] {
        assert_eq!(
            shares.iter().filter(|(_, query)| metrics_in(query).any(|name| name == limit)).count(),
            1,
            "{limit}"
        );
    }
    let of_numbers = shares.iter().filter(|(_, query)| metrics_in(query).count() < 2);
    assert_none(&of_numbers.map(|(place, query)| format!("{place}: {query}")).collect::<Vec<_>>());
}

/// If promtool is installed, promtool accepts the alerts, and their own tests pass.
#[test]
fn promtool_accepts_the_alerts() {
    for arguments in [["check", "rules", "alerts.yaml"], ["test", "rules", "alerts_test.yaml"]] {
        let promtool = Command::new("promtool").args(arguments).current_dir(root().join("deploy/prometheus")).output();
        let Ok(Output { status, stdout, stderr }) = promtool else {
            println!("promtool is not installed");
            return;
        };
        let told = String::from_utf8_lossy(&stdout) + String::from_utf8_lossy(&stderr);
        assert!(status.success(), "{arguments:?}: {told}");
    }
}

/// Every alert of a limit, and of a time, has a test that sees it fire.
#[test]
fn new_alerts_are_tested() {
    let tests = read("deploy/prometheus/alerts_test.yaml");
    let alerts = queries().into_iter().filter(|(_, query)| query.contains("max by") || query.contains("_quantile"));
    let names = alerts.filter_map(|(place, _)| Some(place.strip_prefix("alert ")?.to_string()));
    let untested = names.filter(|name| name != "RinghubLongTurns" && !tests.contains(&format!("\"{name}\"")));
    assert_none(&untested.collect::<Vec<_>>());
}

/// The dashboard names no data source, so it can be imported anywhere, and no panel covers another.
#[test]
fn the_dashboard_is_whole() {
    let dashboard: Value = serde_json::from_str(&read("deploy/grafana/ringhub.json")).unwrap();
    assert_eq!(dashboard["uid"], "ringhub");
    let (mut ids, mut cells) = (BTreeSet::new(), BTreeSet::new());
    for panel in dashboard["panels"].as_array().unwrap() {
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "{panel}");
        let place = |key: &str| panel["gridPos"][key].as_u64().unwrap();
        for cell in (0..place("h")).flat_map(|y| (0..place("w")).map(move |x| (x, y))) {
            let cell = (cell.0 + place("x"), cell.1 + place("y"));
            assert!(cell.0 < 24 && cells.insert(cell), "{panel}");
        }
        if panel["type"] != "row" {
            assert_eq!(panel["datasource"]["uid"], "${datasource}", "{panel}");
            assert!(!panel["description"].as_str().unwrap().is_empty(), "{panel}");
        }
    }
}

/// Every word of these files that begins with `RINGHUB_` is the variable of a setting, except for three words.
#[test]
fn every_variable_is_a_setting() {
    let mut known: BTreeSet<String> = SETTINGS.iter().map(Setting::variable).collect();
    // These are no settings: the path of the settings' file, a variable of Kubernetes, and a variable of the tests.
    known.extend(["RINGHUB_CONFIG", "RINGHUB_PORT", "RINGHUB_AUTOBAHN"].map(Into::into));
    let is_here = |path: &Path| {
        path.starts_with("deploy") || ["compose.yaml", "Dockerfile"].iter().any(|name| path == Path::new(name))
    };
    let (mut offenders, mut found) = (Vec::new(), 0);
    for (path, contents) in texts().filter(|(path, _)| is_here(path)) {
        for word in contents.split(|c: char| !c.is_ascii_alphanumeric() && c != '_') {
            if word.starts_with("RINGHUB_") {
                found += 1;
                if !known.contains(word) {
                    offenders.push(format!("{}: {word} is no setting", path.display()));
                }
            }
        }
    }
    assert_none(&offenders);
    assert!(found > 8, "only {found} variables");
}

/// Reads settings as the server does, and checks them.
fn check_settings(name: &str, toml: &str) -> Config {
    let file = std::env::temp_dir().join(format!("ringhub-{name}-{}.toml", std::process::id()));
    fs::write(&file, toml).unwrap();
    let mut flags = Flags::default();
    flags.read_file(file.clone(), "test");
    let config = Given::read(&flags, []).config(1 << 20);
    fs::remove_file(file).unwrap();
    config.unwrap_or_else(|errors| panic!("{name}: {errors}\n{toml}"))
}

#[test]
fn the_settings_in_manifests_are_valid() {
    let documents = yaml("deploy/kubernetes/ringhub.yaml");
    let settings = of_kind(&documents, "ConfigMap", "ringhub");
    let config = check_settings("kubernetes", settings["data"]["ringhub.toml"].as_str().unwrap());
    let deployment = of_kind(&documents, "Deployment", "ringhub");
    let port = |place: i64| at(&deployment, &format!("spec.template.spec.containers.0.ports.{place}.containerPort"));
    assert_eq!(port(0).as_i64(), Some(i64::from(config.listen[0].port())));
    assert_eq!(port(1).as_i64(), config.metrics_listen.map(|address| i64::from(address.port())));
}

/// The keys of the chart's configuration are keys of settings.
#[test]
fn the_settings_of_the_chart_exist() {
    let values = &yaml("deploy/helm/ringhub/values.yaml")[0];
    let template = read("deploy/helm/ringhub/templates/configmap.yaml");
    let in_template = template.lines().filter_map(|line| line.trim().split_once(" = ")).map(|(key, _)| key.to_string());
    // The keys of the secret stand in the values.
    let in_template = in_template.filter(|key| !key.starts_with("{{"));
    let of_secret =
        at(values, "existingSecretKeys").as_vec().unwrap().iter().map(|key| key.as_str().unwrap().to_string());
    let in_values = at(values, "config").as_hash().unwrap().keys().map(|key| key.as_str().unwrap().to_string());
    let keys: Vec<String> = in_template.chain(in_values).chain(of_secret).collect();
    assert!(keys.len() >= 4, "{keys:?}");
    assert_none(&keys.iter().filter(|key| Setting::by_key(key).is_none()).collect::<Vec<_>>());
}

/// Kubernetes kills a pod only after the pod's server has had its time to leave.
#[test]
fn a_pod_has_the_time_to_leave() {
    let deployment = of_kind(&yaml("deploy/kubernetes/ringhub.yaml"), "Deployment", "ringhub");
    let seconds = |path: &str| at(&deployment, &format!("spec.template.spec.{path}")).as_i64().unwrap();
    let drain = Settings::default().drain_timeout.0.as_secs() as i64;
    let settings = of_kind(&yaml("deploy/kubernetes/ringhub.yaml"), "ConfigMap", "ringhub");
    let config = check_settings("leaving", settings["data"]["ringhub.toml"].as_str().unwrap());
    let delay = config.drain_delay.as_secs() as i64;
    assert_eq!((delay, config.drain_timeout.as_secs() as i64), (5, drain));
    assert!(seconds("terminationGracePeriodSeconds") >= delay + drain + 5);
    let values = &yaml("deploy/helm/ringhub/values.yaml")[0];
    let of_chart = [at(values, "drainDelaySeconds").as_i64(), at(values, "drainSeconds").as_i64()];
    assert_eq!(of_chart, [Some(delay), Some(drain)]);
}

/// The secrets that manifests and the chart mount are where the settings expect them, and only the server reads them.
#[test]
fn secrets_are_mounted_where_the_settings_name_them() {
    let manifest = read("deploy/kubernetes/ringhub.yaml");
    let documents = yaml("deploy/kubernetes/ringhub.yaml");
    let deployment = of_kind(&documents, "Deployment", "ringhub");
    let mount = at(&deployment, "spec.template.spec.containers.0.volumeMounts.1.mountPath").as_str().unwrap();
    let volume = at(&deployment, "spec.template.spec.volumes.1.secret");
    assert_eq!(at(volume, "defaultMode").as_i64(), Some(440), "an octal number, which YAML 1.2 reads as decimal");
    let files: Vec<&str> = manifest.split("\"file:").skip(1).filter_map(|rest| rest.split('"').next()).collect();
    assert_eq!(files.len(), 2);
    for file in files {
        let key = file.strip_prefix(mount).and_then(|rest| rest.strip_prefix('/')).expect(file);
        assert!(Setting::by_key(key).is_some_and(|setting| setting.is_secret), "{key}");
        assert!(manifest.contains(&format!("--from-literal={key}=")), "{key}");
    }
    let chart = read("deploy/helm/ringhub/templates/deployment.yaml");
    assert!(chart.contains("defaultMode: 0440") && chart.contains(&format!("mountPath: {mount}")));
    assert!(read("deploy/helm/ringhub/templates/configmap.yaml").contains(&format!("\"file:{mount}/{{{{ . }}}}\"")));
}

/// Every container of every pod has only the rights that it needs.
#[test]
fn pods_have_no_rights_that_they_do_not_need() {
    let mut pods = 0;
    for name in files_below("deploy/kubernetes", &["yaml"]) {
        for document in
            yaml(&name).iter().filter(|document| ["Deployment", "DaemonSet"].contains(&text(document, "kind")))
        {
            pods += 1;
            let pod = at(document, "spec.template.spec");
            assert_eq!(at(pod, "automountServiceAccountToken").as_bool(), Some(false), "{name}");
            let init = pod["initContainers"].as_vec().into_iter().flatten();
            for container in at(pod, "containers").as_vec().unwrap().iter().chain(init) {
                let flag = |key: &str| at(container, &format!("securityContext.{key}")).as_bool();
                assert_eq!(
                    (flag("allowPrivilegeEscalation"), flag("readOnlyRootFilesystem")),
                    (Some(false), Some(true))
                );
                assert_eq!(text(container, "securityContext.capabilities.drop.0"), "ALL", "{name}");
            }
        }
    }
    assert!(pods >= 2, "{pods} pods");
}

/// The pods have the seccomp profile `RuntimeDefault`, so they start on any node. One manifest puts another profile on
/// the nodes. Comments in `ringhub.yaml` and in the chart's values name this other profile.
#[test]
fn the_profile_on_the_nodes_is_the_one_that_is_named() {
    let daemon = of_kind(&yaml("deploy/kubernetes/seccomp.yaml"), "DaemonSet", "ringhub-seccomp");
    let pod = at(&daemon, "spec.template.spec");
    let folder = text(pod, "volumes.1.hostPath.path").strip_prefix("/var/lib/kubelet/seccomp/").unwrap();
    let file = text(pod, "initContainers.0.command.2").strip_prefix("/node/").unwrap();
    let deployment = of_kind(&yaml("deploy/kubernetes/ringhub.yaml"), "Deployment", "ringhub");
    let values = &yaml("deploy/helm/ringhub/values.yaml")[0];
    for profile in [at(&deployment, "spec.template.spec.securityContext.seccompProfile"), at(values, "seccompProfile")]
    {
        assert_eq!(text(profile, "type"), "RuntimeDefault");
    }
    let named = format!("{{type: Localhost, localhostProfile: {folder}/{file}}}");
    for name in ["deploy/kubernetes/ringhub.yaml", "deploy/helm/ringhub/values.yaml"] {
        assert!(read(name).contains(&named), "{name} does not name {named}");
    }
}

/// The templates of the chart use all values of the chart, and no other values.
#[test]
fn the_chart_has_the_values_that_its_templates_use() {
    let values = &yaml("deploy/helm/ringhub/values.yaml")[0];
    let templates = files_below("deploy/helm/ringhub/templates", &["yaml", "tpl", "txt"]);
    assert!(templates.len() >= 7, "{templates:?}");
    let mut used = BTreeSet::new();
    for name in &templates {
        let template = read(name);
        assert_eq!(template.matches("{{").count(), template.matches("}}").count(), "{name}");
        let opened =
            ["if ", "with ", "range ", "define "].map(|word| actions(&template, word)).into_iter().sum::<usize>();
        assert_eq!(opened, actions(&template, "end"), "{name}");
        for rest in template.split(".Values.").skip(1) {
            let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '.').unwrap_or(rest.len());
            used.insert(rest[..end].to_string());
        }
    }
    for path in &used {
        at(values, path);
    }
    let unused: Vec<String> = leaves(values, "")
        .into_iter()
        .filter(|leaf| !used.iter().any(|path| leaf == path || leaf.starts_with(&format!("{path}."))))
        .collect();
    assert_none(&unused);
}

/// Returns the number of the template's actions that begin with this word.
fn actions(template: &str, word: &str) -> usize {
    template
        .split("{{")
        .skip(1)
        .filter(|action| {
            let action = action.trim_start_matches('-').trim_start();
            action.strip_prefix(word).is_some_and(|rest| word.ends_with(' ') || rest.starts_with([' ', '-', '}']))
        })
        .count()
}

/// Returns the paths of all values that are not maps, and of empty maps.
fn leaves(value: &Yaml, path: &str) -> Vec<String> {
    match value.as_hash().filter(|map| !map.is_empty()) {
        None => vec![path.to_string()],
        Some(map) => {
            let below = |(key, value): (&Yaml, &Yaml)| {
                let key = key.as_str().unwrap();
                leaves(value, &if path.is_empty() { key.to_string() } else { format!("{path}.{key}") })
            };
            map.iter().flat_map(below).collect()
        }
    }
}

/// If helm is installed, helm accepts the chart, with and without its optional parts.
#[test]
fn helm_accepts_the_chart() {
    let helm = |arguments: &[&str]| Command::new("helm").args(arguments).current_dir(root()).output().ok();
    let all =
        "ingress.enabled=true,httpRoute.enabled=true,autoscaling.enabled=true,metrics.serviceMonitor.enabled=true";
    for arguments in [&["lint", "deploy/helm/ringhub"][..], &["template", "deploy/helm/ringhub", "--set", all]] {
        let Some(Output { status, stdout, stderr }) = helm(arguments) else {
            println!("helm is not installed");
            return;
        };
        let told = String::from_utf8_lossy(&stdout) + String::from_utf8_lossy(&stderr);
        assert!(status.success(), "{arguments:?}: {told}");
        if arguments[0] == "template" {
            let documents = YamlLoader::load_from_str(&String::from_utf8_lossy(&stdout)).unwrap();
            let settings = documents.iter().find(|document| document["kind"].as_str() == Some("ConfigMap")).unwrap();
            check_settings("helm", settings["data"]["ringhub.toml"].as_str().unwrap());
        }
    }
}
