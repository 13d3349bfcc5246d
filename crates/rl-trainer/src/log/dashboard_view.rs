//! What the dashboard draws: curves of accuracy and loss, the numbers of now, and what keys do.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Style, Stylize};
use ratatui::symbols::Marker;
use ratatui::text::{Line, Span};
use ratatui::widgets::{Axis, Block, Chart, Clear, Dataset, Gauge, GraphType, Paragraph, Wrap};

use super::curve::Curve;
use super::numbers::Numbers;

const KEYS: &str = "Ctrl-C: save a checkpoint and stop    q: stop or end at once";
const STOPPING: &str =
    "stopping after this step, with a checkpoint; Ctrl-C once more to end at once";
const QUIT: &str = "\
[s] Stop: after this step a checkpoint is saved. `aptvit train --resume` goes on from it.

[k] End at once: what was learned since the newest checkpoint is lost.

[c] Go on with the training.";

/// Steps over which the FLOPs of training are averaged: some forward passes are dense, and the others are not.
const FLOPS_OF_STEPS: usize = 20;

/// From this height on, in lines, the plots have two rows.
const TWO_ROWS: u16 = 16;

/// Is the dialog open that `q` opens?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dialog {
    Closed,
    Quit,
}

/// All that the dashboard shows.
pub(crate) struct View {
    title: String,
    steps_per_epoch: usize,
    pub numbers: Numbers,
    pub dialog: Dialog,
    dense: Curve,
    pruned: Curve,
    train_loss: Curve,
    valid_loss: Curve,
    train_flops: Curve,
    valid_flops: Curve,
    reward: Curve,
}

/// A plot of the dashboard.
struct Plot<'a> {
    title: &'static str,
    curves: Vec<(&'static str, &'a Curve)>,
    /// What its axis spans at least.
    least: f64,
    /// May its values be below 0?
    signed: bool,
}

impl View {
    pub fn new(title: String, steps_per_epoch: usize) -> Self {
        Self {
            title,
            steps_per_epoch,
            numbers: Numbers::new(),
            dialog: Dialog::Closed,
            dense: Curve::new(),
            pruned: Curve::new(),
            train_loss: Curve::new(),
            valid_loss: Curve::new(),
            train_flops: Curve::mean_of_last(FLOPS_OF_STEPS),
            valid_flops: Curve::new(),
            reward: Curve::new(),
        }
    }

    fn step(&self) -> f64 {
        self.numbers.epochs_done() * self.steps_per_epoch as f64
    }

    /// A batch of training or of held-out images is done.
    pub fn batch_done(&mut self, items: usize) {
        self.numbers.update_split(items);
        if !self.numbers.in_training {
            return;
        }
        let (step, train) = (self.step(), &self.numbers.train);
        let flops = train.get("flops_share").map(|share| share * 100.0);
        for (curve, value) in [
            (&mut self.train_loss, train.get("loss")),
            (&mut self.train_flops, flops),
            (&mut self.reward, train.mean_of_blocks("reward")),
        ] {
            if let Some(value) = value {
                curve.push(step, value);
            }
        }
    }

    /// An epoch is done, its held-out images measured.
    pub fn epoch_done(&mut self, epoch: usize) {
        self.numbers.end_epoch(epoch);
        let step = self.step();
        let valid = &self.numbers.valid;
        let push = |curve: &mut Curve, name: &str, factor: f64| {
            if let Some(value) = valid.get(name) {
                curve.push(step, value * factor);
            }
        };
        push(&mut self.dense, "dense_accuracy", 100.0);
        push(&mut self.pruned, "pruned_accuracy", 100.0);
        push(&mut self.valid_loss, "loss", 1.0);
        push(&mut self.valid_flops, "flops_share", 100.0);
    }

    /// Draws all of it; `stopping`: is the training asked to stop?
    pub fn draw(&self, frame: &mut Frame<'_>, stopping: bool) {
        let parts = [
            Constraint::Length(1),
            Constraint::Min(6),
            Constraint::Length(4),
            Constraint::Length(1),
            Constraint::Length(1),
        ];
        let [title, charts, numbers, progress, keys] = Layout::vertical(parts).areas(frame.area());
        frame.render_widget(Line::from(self.title.as_str()).bold(), title);
        self.draw_plots(frame, charts);
        let block = Block::bordered().title(" now ");
        frame.render_widget(Paragraph::new(self.lines()).block(block), numbers);
        let done = self.numbers.epochs_done() / self.numbers.total_epochs.max(1) as f64;
        let doing = if self.numbers.in_training {
            "training"
        } else {
            "measuring held-out images"
        };
        let label = format!(
            " step {:.0} of {}, {doing}, left {} ",
            self.step(),
            self.numbers.total_epochs * self.steps_per_epoch,
            self.numbers.left()
        );
        let gauge = Gauge::default().ratio(done.clamp(0.0, 1.0)).label(label);
        frame.render_widget(gauge.gauge_style(Color::Cyan), progress);
        let said = if stopping {
            Line::from(STOPPING).bold()
        } else {
            Line::from(KEYS)
        };
        frame.render_widget(said, keys);
        if self.dialog == Dialog::Quit {
            draw_dialog(frame);
        }
    }

    /// What a person watches, the most important first.
    fn plots(&self) -> Vec<Plot<'_>> {
        let plot = |title, curves, least, signed| Plot {
            title,
            curves,
            least,
            signed,
        };
        let of_both = |train, valid| vec![("training", train), ("held out", valid)];
        let accuracy = vec![("dense", &self.dense), ("pruned", &self.pruned)];
        let loss = of_both(&self.train_loss, &self.valid_loss);
        let flops = of_both(&self.train_flops, &self.valid_flops);
        let mut plots = vec![
            plot(" held-out accuracy % ", accuracy, 1.0, false),
            plot(" loss ", loss, 0.01, false),
            plot(" FLOPs share % ", flops, 1.0, false),
        ];
        // Policies without agents earn nothing.
        if !self.reward.points().is_empty() {
            let reward = vec![("mean over blocks", &self.reward)];
            plots.push(plot(" reward ", reward, 1e-9, true));
        }
        plots
    }

    /// Two rows of plots, or one if the area is too low for two.
    fn draw_plots(&self, frame: &mut Frame<'_>, area: Rect) {
        let plots = self.plots();
        let rows = if area.height >= TWO_ROWS { 2 } else { 1 };
        let areas = Layout::vertical(vec![Constraint::Fill(1); rows]).split(area);
        for (row, plots) in areas.iter().zip(plots.chunks(2)) {
            let places = Layout::horizontal(vec![Constraint::Fill(1); plots.len()]).split(*row);
            for (place, plot) in places.iter().zip(plots) {
                self.chart(frame, *place, plot);
            }
        }
    }

    fn lines(&self) -> Vec<Line<'static>> {
        let (train, valid) = (&self.numbers.train, &self.numbers.valid);
        let line = |name: &str, of: &super::numbers::Values| {
            format!(
                "{name:9} dense {}  pruned {}  FLOPs {}  loss {}",
                of.percent("dense_accuracy"),
                of.percent("pruned_accuracy"),
                of.percent("flops_share"),
                of.loss()
            )
        };
        let speed = train.get("images_per_s").unwrap_or(0.0);
        vec![
            Line::from(line("held out", valid)),
            Line::from(format!("{}  {speed:.0} images/s", line("training", train))),
        ]
    }

    fn chart(&self, frame: &mut Frame<'_>, area: Rect, plot: &Plot<'_>) {
        let curves = &plot.curves;
        let values = || curves.iter().flat_map(|(_, curve)| curve.points());
        // Also without colours the second curve has other dots.
        let looks = [
            (Color::Cyan, Marker::Braille, "⠶"),
            (Color::Yellow, Marker::Dot, "•"),
        ];
        let mut title = vec![Span::raw(plot.title)];
        for ((name, _), (color, _, dots)) in curves.iter().zip(looks) {
            title.push(Span::styled(format!("{dots} {name} "), color));
        }
        let block = Block::bordered().title(Line::from(title));
        if values().next().is_none() {
            let nothing = Paragraph::new("nothing was measured yet").centered();
            return frame.render_widget(nothing.block(block), area);
        }
        let low = values().map(|point| point.1).fold(f64::INFINITY, f64::min);
        let high = values()
            .map(|point| point.1)
            .fold(f64::NEG_INFINITY, f64::max);
        let margin = ((high - low) * 0.1).max(plot.least / 2.0);
        let floor = if plot.signed { f64::NEG_INFINITY } else { 0.0 };
        let heights = [(low - margin).max(floor), high + margin];
        let first = values().map(|point| point.0).fold(f64::INFINITY, f64::min);
        let steps = [first.min(self.step() - 1.0).max(0.0), self.step().max(1.0)];
        let sets = curves.iter().zip(looks).map(|((_, curve), look)| {
            Dataset::default()
                .data(curve.points())
                .graph_type(GraphType::Line)
                .marker(look.1)
                .style(Style::new().fg(look.0))
        });
        let labels = heights.map(|height| {
            if plot.signed {
                format!("{height:.1e}")
            } else if plot.least < 1.0 {
                format!("{height:.2}")
            } else {
                format!("{height:.1}")
            }
        });
        let ends = steps.map(|step| format!("{step:.0}"));
        let chart = Chart::new(sets.collect())
            .block(block)
            .legend_position(None)
            .x_axis(Axis::default().bounds(steps).labels(ends))
            .y_axis(Axis::default().bounds(heights).labels(labels));
        frame.render_widget(chart, area);
    }
}

fn draw_dialog(frame: &mut Frame<'_>) {
    let all = frame.area();
    let (width, height) = (all.width.min(64), all.height.min(9));
    let area = Rect {
        x: all.x + (all.width - width) / 2,
        y: all.y + (all.height - height) / 2,
        width,
        height,
    };
    frame.render_widget(Clear, area);
    let text = Paragraph::new(QUIT).wrap(Wrap { trim: false });
    frame.render_widget(text.block(Block::bordered().title(" stop? ")), area);
}

#[cfg(test)]
mod tests {
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    use super::*;

    fn drawn(view: &View, width: u16, height: u16, stopping: bool) -> String {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| view.draw(frame, stopping)).unwrap();
        terminal.backend().to_string()
    }

    fn view() -> View {
        let mut view = View::new("policy apt, FLOPs 50%".into(), 100);
        view.numbers.start(4, 1);
        for epoch in 1..=2 {
            view.numbers.start_split("train", 10);
            view.numbers.train.set("loss", 1.5);
            view.numbers.train.set("flops_share", 0.52);
            view.batch_done(10);
            view.numbers.valid.set("dense_accuracy", 0.613);
            view.numbers.valid.set("pruned_accuracy", 0.587);
            view.numbers.valid.set("loss", f64::NAN);
            view.epoch_done(epoch);
        }
        view
    }

    #[test]
    fn the_numbers_that_a_person_watches_are_there() {
        let text = drawn(&view(), 110, 30, false);
        for word in [
            "policy apt, FLOPs 50%",
            "held-out accuracy %",
            "dense • pruned",
            "61.3%",
            "58.7%",
            "step 200 of 400",
            "save a checkpoint",
        ] {
            assert!(text.contains(word), "{word}: {text}");
        }
        assert!(!text.contains("NaN"), "{text}");
    }

    #[test]
    fn flops_and_reward_have_plots_where_there_is_room() {
        let mut view = view();
        assert!(drawn(&view, 110, 30, false).contains("FLOPs share %"));
        assert!(!drawn(&view, 110, 30, false).contains("reward"));
        view.numbers.start_split("train", 10);
        for reward in [-2e-6, 1e-6] {
            view.numbers.train.set("reward/1", reward);
            view.batch_done(5);
        }
        let text = drawn(&view, 110, 30, false);
        assert!(
            text.contains("reward") && text.contains("-2.3e-6"),
            "{text}"
        );
        let small = drawn(&view, 80, 18, false);
        assert!(
            small.contains("accuracy") && !small.contains("reward"),
            "{small}"
        );
    }

    #[test]
    fn titles_of_plots_fit_into_half_of_80_columns() {
        let mut view = view();
        view.numbers.start_split("train", 10);
        view.numbers.train.set("reward/1", 1e-6);
        view.batch_done(5);
        let text = drawn(&view, 80, 40, false);
        for title in [
            "% ⠶ dense • pruned ",
            "FLOPs share % ⠶ training • held out ",
        ] {
            assert!(text.contains(title), "{title}: {text}");
        }
    }

    #[test]
    fn it_says_that_it_stops_and_what_the_dialog_does() {
        let mut view = view();
        assert!(drawn(&view, 110, 30, true).contains("with a checkpoint"));
        view.dialog = Dialog::Quit;
        let text = drawn(&view, 110, 30, false);
        assert!(text.contains("a checkpoint is saved"), "{text}");
    }

    #[test]
    fn a_small_terminal_and_a_training_without_numbers_are_drawn() {
        let mut view = View::new(String::new(), 1);
        view.dialog = Dialog::Quit;
        for (width, height) in [(1, 1), (5, 40), (200, 3), (80, 24)] {
            drawn(&view, width, height, true);
        }
    }
}
