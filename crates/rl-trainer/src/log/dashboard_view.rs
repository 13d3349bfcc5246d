//! What the dashboard draws: curves of accuracy and loss, the numbers of now, and what keys do.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Style, Stylize};
use ratatui::symbols::Marker;
use ratatui::text::Line;
use ratatui::widgets::{
    Axis, Block, Chart, Clear, Dataset, Gauge, GraphType, LegendPosition, Paragraph, Wrap,
};

use super::curve::Curve;
use super::numbers::Numbers;

const KEYS: &str = "Ctrl-C: save a checkpoint and stop    q: stop or end at once";
const STOPPING: &str =
    "stopping after this step, with a checkpoint; Ctrl-C once more to end at once";
const QUIT: &str = "\
[s] Stop: after this step a checkpoint is saved. `aptvit train --resume` goes on from it.

[k] End at once: what was learned since the newest checkpoint is lost.

[c] Go on with the training.";

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
        }
    }

    fn step(&self) -> f64 {
        self.numbers.epochs_done() * self.steps_per_epoch as f64
    }

    /// A batch of training or of held-out images is done.
    pub fn batch_done(&mut self, items: usize) {
        self.numbers.update_split(items);
        if let (true, Some(loss)) = (self.numbers.in_training, self.numbers.train.get("loss")) {
            self.train_loss.push(self.step(), loss);
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
        let [accuracy, loss] = Layout::horizontal([Constraint::Fill(1); 2]).areas(charts);
        let curves = [("dense", &self.dense), ("pruned", &self.pruned)];
        self.chart(frame, accuracy, " held-out accuracy in % ", curves, 1.0);
        let curves = [
            ("training", &self.train_loss),
            ("held out", &self.valid_loss),
        ];
        self.chart(frame, loss, " loss ", curves, 0.01);
        let block = Block::bordered().title(" now ");
        frame.render_widget(Paragraph::new(self.lines()).block(block), numbers);
        let done = self.numbers.epochs_done() / self.numbers.total_epochs.max(1) as f64;
        let doing = if self.numbers.in_training {
            "training"
        } else {
            "measuring held-out images"
        };
        let label = format!(
            "step {:.0} of {}, {doing}, left {}",
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

    fn chart(
        &self,
        frame: &mut Frame<'_>,
        area: Rect,
        title: &str,
        curves: [(&str, &Curve); 2],
        least_height: f64,
    ) {
        let values = || curves.iter().flat_map(|(_, curve)| curve.points());
        let block = Block::bordered().title(title.to_string());
        if values().next().is_none() {
            let nothing = Paragraph::new("nothing was measured yet").centered();
            return frame.render_widget(nothing.block(block), area);
        }
        let low = values().map(|point| point.1).fold(f64::INFINITY, f64::min);
        let high = values().map(|point| point.1).fold(0.0, f64::max);
        let margin = ((high - low) * 0.1).max(least_height / 2.0);
        let heights = [(low - margin).max(0.0), high + margin];
        let first = values().map(|point| point.0).fold(f64::INFINITY, f64::min);
        let steps = [first.min(self.step() - 1.0).max(0.0), self.step().max(1.0)];
        // Also without colours the second curve has other dots.
        let looks = [(Color::Cyan, Marker::Braille), (Color::Yellow, Marker::Dot)];
        let sets = curves.iter().zip(looks).map(|((name, curve), look)| {
            Dataset::default()
                .name(*name)
                .data(curve.points())
                .graph_type(GraphType::Line)
                .marker(look.1)
                .style(Style::new().fg(look.0))
        });
        let digits = if least_height < 1.0 { 2 } else { 1 };
        let labels = heights.map(|height| format!("{height:.digits$}"));
        let ends = steps.map(|step| format!("{step:.0}"));
        let chart = Chart::new(sets.collect())
            .block(block)
            .legend_position(Some(LegendPosition::BottomRight))
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
            "accuracy in %",
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
