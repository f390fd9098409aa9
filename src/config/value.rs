//! How a value of a setting is written, read and shown, whatever its type.

/// A type that settings have. A value is written as items of text: one, unless it is a list.
pub(super) trait Value: Sized {
    /// Whether a value may have several items.
    const IS_LIST: bool = false;
    /// Whether a value is secret.
    const IS_SECRET: bool = false;
    /// Whether a file may write an item as a plain integer.
    const TAKES_INTEGERS: bool;
    /// The type of an item, for the error about an item of another type.
    const EXPECTED: &'static str;

    /// Reads items. An optional type is unset if there are none.
    fn read(items: &[&str]) -> Result<Self, Fault>;

    /// Returns the items of the value, masked if they are secret; none if it is not set.
    fn items(&self) -> Vec<String>;
}

/// The shape in which a value is written.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shape {
    pub(super) key: &'static str,
    pub(super) is_list: bool,
    pub(super) takes_integers: bool,
    pub(super) expected: &'static str,
}

impl Shape {
    /// Returns the shape of a type.
    pub(super) fn of<T: Value>(key: &'static str) -> Shape {
        Shape { key, is_list: T::IS_LIST, takes_integers: T::TAKES_INTEGERS, expected: T::EXPECTED }
    }

    /// Returns whether a value is on or off, among other words perhaps. A file may have the booleans true and false
    /// instead: programs that make the file of YAML write them for `on` and `off`, and people do too.
    pub(super) fn takes_booleans(&self) -> bool {
        ["\"on\"", "\"off\""].iter().all(|word| self.expected.contains(word))
    }

    /// Splits text into items, as flags and variables are written.
    pub(super) fn split<'a>(&self, text: &'a str) -> Vec<&'a str> {
        if self.is_list { text.split(',').map(str::trim).collect() } else { vec![text] }
    }
}

/// A wrong item, by its index, and the sentence about it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) item: usize,
    pub(super) what: String,
}

/// A type whose value is one item.
pub(super) trait Scalar: Sized {
    const TAKES_INTEGERS: bool = false;
    const EXPECTED: &'static str;

    fn parse(text: &str) -> Result<Self, String>;

    fn show(&self) -> String;
}

impl<T: Scalar> Value for T {
    const TAKES_INTEGERS: bool = T::TAKES_INTEGERS;
    const EXPECTED: &'static str = T::EXPECTED;

    fn read(items: &[&str]) -> Result<Self, Fault> {
        let &[item] = items else { return Err(Fault { item: 0, what: "one value is needed".into() }) };
        T::parse(item).map_err(|what| Fault { item: 0, what })
    }

    fn items(&self) -> Vec<String> {
        vec![self.show()]
    }
}

impl<T: Scalar> Value for Option<T> {
    const TAKES_INTEGERS: bool = T::TAKES_INTEGERS;
    const EXPECTED: &'static str = T::EXPECTED;

    fn read(items: &[&str]) -> Result<Self, Fault> {
        if items.is_empty() { Ok(None) } else { <T as Value>::read(items).map(Some) }
    }

    fn items(&self) -> Vec<String> {
        self.iter().map(T::show).collect()
    }
}

impl<T: Scalar> Value for Vec<T> {
    const IS_LIST: bool = true;
    const TAKES_INTEGERS: bool = T::TAKES_INTEGERS;
    const EXPECTED: &'static str = T::EXPECTED;

    fn read(items: &[&str]) -> Result<Self, Fault> {
        let parsed = items.iter().enumerate().map(|(item, text)| T::parse(text).map_err(|what| Fault { item, what }));
        parsed.collect()
    }

    fn items(&self) -> Vec<String> {
        self.iter().map(T::show).collect()
    }
}

/// No items are an unset value (`None`): there is no empty list.
impl<T: Scalar> Value for Option<Vec<T>> {
    const IS_LIST: bool = true;
    const TAKES_INTEGERS: bool = T::TAKES_INTEGERS;
    const EXPECTED: &'static str = T::EXPECTED;

    fn read(items: &[&str]) -> Result<Self, Fault> {
        if items.is_empty() { Ok(None) } else { <Vec<T> as Value>::read(items).map(Some) }
    }

    fn items(&self) -> Vec<String> {
        self.iter().flatten().map(T::show).collect()
    }
}

/// Returns the value of the choice that a text names.
pub(super) fn one_of<T: Copy>(text: &str, choices: &[(&str, T)]) -> Result<T, String> {
    let choice = choices.iter().find(|(name, _)| *name == text);
    choice.map(|(_, value)| *value).ok_or_else(|| {
        let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
        format!("{text:?} is none of {}", names.join(", "))
    })
}
