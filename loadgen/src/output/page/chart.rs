//! A chart as inline SVG: axes, and marks between them.

use super::html::escape;
use super::scale::Scale;
use std::fmt::Write as _;

/// A chart. Its colours come from the classes of its marks.
#[derive(Debug)]
pub(crate) struct Chart {
    x: Scale,
    y: Scale,
    axes: String,
    marks: String,
    hits: String,
}

/// The colour of a series, of which a page has two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Colour {
    First,
    Second,
}

impl Colour {
    /// Returns the class of this colour.
    pub(crate) fn class(self) -> &'static str {
        match self {
            Colour::First => "first",
            Colour::Second => "second",
        }
    }
}

/// A tick: a value and its label.
pub(crate) type Tick = (f64, String);

impl Chart {
    /// Makes an empty chart with labelled axes.
    pub(crate) fn new(x: Scale, x_ticks: &[Tick], x_title: &str, y: Scale, y_ticks: &[Tick]) -> Chart {
        let (x, y) = (x.between(LEFT, WIDTH - RIGHT), y.between(HEIGHT - BOTTOM, TOP));
        let (left, right) = x.ends();
        let (bottom, top) = y.ends();
        let mut axes = String::new();
        // Writing to a string does not fail, here and below.
        for (value, label) in y_ticks {
            let at = y.place(*value);
            _ = write!(axes, "<path class=\"grid\" d=\"M{left:.1} {at:.1}H{right:.1}\"/>");
            let label = escape(label);
            _ = write!(axes, "<text class=\"tick y\" x=\"{:.1}\" y=\"{:.1}\">{label}</text>", left - 6.0, at + 4.0);
        }
        for (value, label) in x_ticks {
            let at = x.place(*value);
            _ = write!(axes, "<path class=\"axis\" d=\"M{at:.1} {bottom:.1}v4\"/>");
            let (label, low) = (escape(label), bottom + 17.0);
            _ = write!(axes, "<text class=\"tick x\" x=\"{at:.1}\" y=\"{low:.1}\">{label}</text>");
        }
        _ = write!(axes, "<path class=\"axis\" d=\"M{left:.1} {bottom:.1}H{right:.1}\"/>");
        let (middle, title) = ((left + right) / 2.0, escape(x_title));
        _ = write!(axes, "<text class=\"title x\" x=\"{middle:.1}\" y=\"{:.1}\">{title}</text>", HEIGHT - 4.0);
        debug_assert!(top < bottom, "places of SVG grow downwards");
        Chart { x, y, axes, marks: String::new(), hits: String::new() }
    }

    /// Draws a line through the points, in the order of their `x`.
    pub(crate) fn line(&mut self, colour: Colour, points: &[(f64, f64)]) {
        if let [(x, y)] = points {
            return self.dot(colour, *x, *y, "");
        }
        let class = colour.class();
        _ = write!(self.marks, "<path class=\"line {class}\" d=\"{}\"/>", self.path(points));
    }

    /// Fills the area under a line.
    pub(crate) fn area(&mut self, colour: Colour, points: &[(f64, f64)]) {
        let ([(first, _), .., (last, _)], class) = (points, colour.class()) else { return };
        let (path, bottom) = (self.path(points), self.y.ends().0);
        let (first, last) = (self.x.place(*first), self.x.place(*last));
        _ = write!(self.marks, "<path class=\"area {class}\" d=\"{path}L{last:.1} {bottom:.1}H{first:.1}z\"/>");
    }

    /// Draws a point, whose text is shown under the pointer.
    pub(crate) fn dot(&mut self, colour: Colour, x: f64, y: f64, text: &str) {
        let (x, y, class) = (self.x.place(x), self.y.place(y), colour.class());
        let title = if text.is_empty() { String::new() } else { format!("<title>{}</title>", escape(text)) };
        _ = write!(self.marks, "<circle class=\"dot {class}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"4\">{title}</circle>");
    }

    /// Draws a line across the chart at a value of `x`, whose text is shown under the pointer.
    pub(crate) fn mark(&mut self, x: f64, text: &str) {
        let ((bottom, top), x, text) = (self.y.ends(), self.x.place(x), escape(text));
        _ = write!(self.hits, "<path class=\"mark\" d=\"M{x:.1} {bottom:.1}V{top:.1}\"><title>{text}</title></path>");
    }

    /// Fills cells of the same shade. Each cell has its left, right, lower and upper value.
    pub(crate) fn cells(&mut self, shade: usize, cells: &[[f64; 4]]) {
        let mut path = String::new();
        for &[left, right, low, high] in cells {
            let (left, right) = (self.x.place(left), self.x.place(right));
            let (low, high) = (self.y.place(low), self.y.place(high));
            let (width, height) = (right - left, low - high);
            _ = write!(path, "M{left:.2} {high:.2}h{width:.2}v{height:.2}h-{width:.2}z");
        }
        if !path.is_empty() {
            _ = write!(self.marks, "<path class=\"cell shade{shade}\" d=\"{path}\"/>");
        }
    }

    /// Shows a text under the pointer while it is between two values of `x`.
    pub(crate) fn hit(&mut self, from: f64, to: f64, text: &str) {
        let ((bottom, top), left, right) = (self.y.ends(), self.x.place(from), self.x.place(to));
        let (width, height, text) = (right - left, bottom - top, escape(text));
        _ = write!(
            self.hits,
            "<rect class=\"hit\" x=\"{left:.1}\" y=\"{top:.1}\" width=\"{width:.1}\" height=\"{height:.1}\">\
             <title>{text}</title></rect>"
        );
    }

    /// Returns the drawing. `label` says what it shows to readers who do not see it.
    pub(crate) fn svg(&self, label: &str) -> String {
        let Chart { axes, marks, hits, .. } = self;
        let label = escape(label);
        format!("<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{label}\">{axes}{marks}{hits}</svg>")
    }

    fn path(&self, points: &[(f64, f64)]) -> String {
        let mut path = String::new();
        for (place, (x, y)) in points.iter().enumerate() {
            let command = if place == 0 { 'M' } else { 'L' };
            _ = write!(path, "{command}{:.1} {:.1}", self.x.place(*x), self.y.place(*y));
        }
        path
    }
}

const WIDTH: f64 = 400.0;
const HEIGHT: f64 = 240.0;
const LEFT: f64 = 56.0;
const RIGHT: f64 = 26.0;
const TOP: f64 = 10.0;
const BOTTOM: f64 = 42.0;
