//! Reads all sources of settings: flags win over variables, variables over the file, the file over the defaults.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsString,
    path::PathBuf,
};

use clap::{Arg, ArgAction, ArgMatches, Command};

use super::{
    checked::{Config, Unchecked},
    entry::{Entry, Part, nearest},
    file,
    file_value::FileValues,
    issuers::GivenIssuers,
    routes::{given::GivenRoute, rules::Base},
    settings::{SETTINGS, Setting, Settings, VARIABLE_PREFIX},
    topics::config::GivenTopicRule,
};
use crate::{
    error::{ConfigError, ConfigErrors, Origin},
    outbound::Outbound,
};

/// The settings among the flags of a command line, to be flattened into the arguments of a command.
#[derive(Default, Clone)]
pub struct Flags {
    file: Option<(PathBuf, Origin)>,
    given: Vec<(&'static Setting, Vec<OsString>)>,
}

impl Flags {
    /// Reads this file instead of the file that the flags and variables name. Errors contain the name of the argument.
    pub fn read_file(&mut self, file: PathBuf, argument: &str) {
        self.file = Some((file, Origin::Flag(argument.into())));
    }
}

impl clap::Args for Flags {
    fn augment_args(command: Command) -> Command {
        let file = Arg::new(FILE_ARGUMENT)
            .long(FILE_ARGUMENT)
            .value_name("FILE")
            .value_parser(clap::value_parser!(PathBuf))
            .help("Read settings from this file of TOML [default: none]")
            .help_heading("File");
        command.arg(file).args(SETTINGS.iter().map(argument))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl clap::FromArgMatches for Flags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut flags = Flags::default();
        flags.update_from_arg_matches(matches)?;
        Ok(flags)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        if let Some(file) = matches.get_one::<PathBuf>(FILE_ARGUMENT) {
            self.read_file(file.clone(), &format!("--{FILE_ARGUMENT}"));
        }
        for setting in SETTINGS {
            if let Some(texts) = matches.get_many::<OsString>(setting.key) {
                self.given.push((setting, texts.cloned().collect()));
            }
        }
        Ok(())
    }
}

/// Returns the flag of a setting. Its value is checked with those of the other sources, so clap only gets text.
fn argument(setting: &Setting) -> Arg {
    let help = setting.help();
    let first_sentence = help.find(". ").map_or(help, |end| &help[..end]).trim_end_matches('.');
    let several = if setting.is_list { ",..." } else { "" };
    let default = format!("[default: {}]", setting.preset.words());
    Arg::new(setting.key)
        .long(setting.flag())
        .value_name(format!("{}{several}", setting.value_name))
        .value_parser(clap::value_parser!(OsString))
        .action(if setting.is_list { ArgAction::Append } else { ArgAction::Set })
        .help(format!("{first_sentence} {default}"))
        .long_help(format!("{help} {default}"))
        .help_heading(setting.heading)
}

/// The settings and routes of all sources together.
#[derive(Debug)]
pub struct Given {
    /// The settings, each from the source that wins. A setting with a wrong value keeps its default, and
    /// [`Given::config`] returns the error.
    pub settings: Settings,
    pub(super) routes: Vec<GivenRoute>,
    pub(super) topics: Vec<GivenTopicRule>,
    pub(super) issuers: GivenIssuers,
    outbound: Outbound,
    origins: BTreeMap<&'static str, Origin>,
    errors: Vec<ConfigError>,
    warnings: Vec<String>,
}

impl Given {
    /// Reads all sources. Every value must be valid, even if another source overrides it.
    ///
    /// A variable that begins with `RINGHUB_` and is no setting is an error if it looks like a misspelled one, and else
    /// a warning: Kubernetes sets `RINGHUB_PORT` and others in every container if a service has the name `ringhub`.
    #[must_use]
    pub fn read(flags: &Flags, variables: impl IntoIterator<Item = (OsString, OsString)>) -> Given {
        Given::read_part(flags, variables, Part::All)
    }

    /// Reads one setting from all sources, by its key. All other settings and the routes are skipped: their values need
    /// not be valid, and no folder of a route is opened.
    ///
    /// ```
    /// use ringhub::config::{Flags, Given};
    /// let variables = [("RINGHUB_LISTEN".into(), "[::1]:80".into()), ("RINGHUB_PIN".into(), "nonsense".into())];
    /// let given = Given::read_one("listen", &Flags::default(), variables);
    /// assert_eq!(given.settings.listen[0].to_string(), "[::1]:80");
    /// assert!(given.check_sources().is_ok());
    /// ```
    ///
    /// # Panics
    ///
    /// If no setting has the key.
    #[must_use]
    pub fn read_one(key: &str, flags: &Flags, variables: impl IntoIterator<Item = (OsString, OsString)>) -> Given {
        let setting = Setting::by_key(key).expect("the key of a setting");
        Given::read_part(flags, variables, Part::One(setting))
    }

    fn read_part(flags: &Flags, variables: impl IntoIterator<Item = (OsString, OsString)>, part: Part) -> Given {
        let mut given = Given {
            settings: Settings::default(),
            routes: Vec::new(),
            topics: Vec::new(),
            issuers: GivenIssuers::default(),
            outbound: Outbound::default(),
            origins: BTreeMap::new(),
            errors: Vec::new(),
            warnings: Vec::new(),
        };
        let mut file = None;
        let mut entries = Vec::new();
        for (name, value) in variables {
            let name = name.to_string_lossy().into_owned();
            let Some(rest) = name.strip_prefix(VARIABLE_PREFIX) else { continue };
            let origin = Origin::Variable(name.clone());
            if name == FILE_VARIABLE {
                file = Some((PathBuf::from(value), origin));
            } else if let Some(setting) = SETTINGS.iter().find(|setting| setting.variable() == name) {
                if part.includes(setting) {
                    entries.extend(given.entry(setting, &[value], origin));
                }
            } else if matches!(part, Part::All) {
                given.note_unknown(rest, origin);
            }
        }
        for (setting, texts) in flags.given.iter().filter(|(setting, _)| part.includes(setting)) {
            entries.extend(given.entry(setting, texts, Origin::Flag(format!("--{}", setting.flag()))));
        }
        if let Some((path, named_by)) = flags.file.as_ref().or(file.as_ref()) {
            let contents = file::read(path, named_by, part);
            given.errors.splice(0..0, contents.errors);
            given.warnings.extend(contents.warnings);
            given.routes = contents.routes;
            given.warnings.extend(contents.issuers.warnings().cloned());
            given.topics = contents.topics;
            given.issuers = contents.issuers;
            given.outbound = contents.outbound;
            entries.splice(0..0, contents.entries);
        }
        for entry in entries {
            given.take(entry);
        }
        given
    }

    fn entry(&mut self, setting: &'static Setting, texts: &[OsString], origin: Origin) -> Option<Entry> {
        let Some(texts) = texts.iter().map(|text| text.to_str()).collect::<Option<Vec<_>>>() else {
            self.errors.push(ConfigError::of(setting.key, "this is not UTF-8".into()).from(origin));
            return None;
        };
        let items = texts.iter().flat_map(|text| setting.split(text)).map(|item| (item.into(), origin.clone()));
        // Relative paths belong to the folder in which the program was started.
        let values = FileValues::below("");
        let resolved = values.resolve(setting.shape(), items.collect());
        self.warnings.extend(values.warnings());
        let items = resolved.map_err(|error| self.errors.push(error)).ok()?;
        Some(Entry { setting, items, origin })
    }

    fn note_unknown(&mut self, rest: &str, origin: Origin) {
        let key = rest.to_lowercase();
        let known = SETTINGS.iter().map(|setting| setting.key).chain([FILE_ARGUMENT]);
        let Some((nearest, distance)) = nearest(&key, known) else { return };
        // A misspelled name differs from the key in at most a quarter of its letters, and in two at most.
        if distance <= (key.len().max(nearest.len()) / 4).min(2) {
            let nearest = nearest.to_uppercase();
            let what = format!("there is no such setting; did you mean {VARIABLE_PREFIX}{nearest}?");
            self.errors.push(ConfigError::at(origin, what));
        } else {
            self.warnings.push(format!("the variable {origin} is no setting and is ignored"));
        }
    }

    fn take(&mut self, entry: Entry) {
        let Entry { setting, items, origin } = entry;
        let texts: Vec<&str> = items.iter().map(|(text, _)| &**text).collect();
        match (setting.read)(&mut self.settings, &texts) {
            Ok(()) => drop(self.origins.insert(setting.key, origin)),
            Err(fault) => {
                let origin = items.into_iter().nth(fault.item).map_or(origin, |(_, origin)| origin);
                self.errors.push(ConfigError::of(setting.key, fault.what).from(origin));
            }
        }
    }

    /// Checks the settings against each other and against this machine.
    ///
    /// # Errors
    ///
    /// All errors in the sources or between them, each with its place.
    pub fn config(&self, descriptors: u64) -> Result<Config, ConfigErrors> {
        let folders = self.routes.iter().filter(|route| route.serves_files()).count();
        self.checked(Config::with_folders(&self.settings, descriptors, folders, self.outbound.clone()))
    }

    /// Checks the settings as a reload of a server with the settings `running`. The values for which a restart is
    /// needed are not checked: they stay those of `running`.
    ///
    /// # Errors
    ///
    /// All errors in the sources or between them, each with its place.
    pub fn config_for(&self, running: &Config) -> Result<Config, ConfigErrors> {
        self.outbound.join(&running.outbound);
        let config = self.checked(Config::again(&running.merged(&self.settings), running))?;
        Ok(Config { settings: Unchecked(Box::new(self.settings.clone())), ..config })
    }

    /// Adds the routes to settings that were checked against each other.
    fn checked(&self, checked: Result<Config, ConfigErrors>) -> Result<Config, ConfigErrors> {
        let mut errors = self.errors.clone();
        let failed: BTreeSet<&str> = errors.iter().filter_map(ConfigError::setting).collect();
        match checked {
            Ok(mut config) => {
                config.topics = self.topics.iter().map(Into::into).collect();
                config.jwt = self.issuers.all();
                let base = config.base_of_routes();
                for route in &self.routes {
                    match route.settle(&base, |key| self.origin(key)) {
                        Ok(route) => config.routes.push(route),
                        Err(faults) => {
                            let is_proved = |error: &ConfigError| error.settings().all(|key| !failed.contains(key));
                            errors.extend(faults.into_iter().filter(is_proved));
                        }
                    }
                }
                if errors.is_empty() {
                    return Ok(config);
                }
            }
            Err(between) => {
                // An error that involves a setting with a wrong value may come from the default in its place.
                let proved = between.0.into_iter().filter(|error| error.settings().all(|key| !failed.contains(key)));
                let located = proved.map(|error| error.located(|key| self.origin(key)));
                let located: Vec<ConfigError> = located.collect();
                errors.extend(located);
                let base = Base::of_any_server();
                let of_routes =
                    self.routes.iter().filter_map(|route| route.settle(&base, |key| self.origin(key)).err());
                errors.extend(of_routes.flatten());
            }
        }
        Err(in_order(errors))
    }

    /// Checks that every source could be read and that each value is valid by itself, for a program that needs a
    /// setting and no server.
    ///
    /// # Errors
    ///
    /// All errors in the sources, without those of values that do not fit another setting or this machine.
    pub fn check_sources(&self) -> Result<(), ConfigErrors> {
        if self.errors.is_empty() { Ok(()) } else { Err(in_order(self.errors.clone())) }
    }

    /// Returns the warnings about the sources.
    #[must_use]
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Returns the source that has given a setting, by its key.
    #[must_use]
    pub fn origin(&self, key: &str) -> Origin {
        self.origins.get(key).cloned().unwrap_or(Origin::Default)
    }
}

/// Returns the errors in order: those of the file by their lines, those of other sources as they were read.
fn in_order(mut errors: Vec<ConfigError>) -> ConfigErrors {
    errors.sort_by_key(|error| match error.origin() {
        Origin::File(_, line) => *line,
        _ => usize::MAX,
    });
    ConfigErrors(errors)
}

/// The flag that names the file, and its variable.
const FILE_ARGUMENT: &str = "config";
const FILE_VARIABLE: &str = "RINGHUB_CONFIG";
