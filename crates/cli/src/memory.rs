//! `aptvit memory`

mod add;
mod build;
mod eval;
mod images;
mod list;
mod remove;

use anyhow::Result;
use clap::{Args, Parser, Subcommand};

use crate::End;
use crate::global::Global;

const EXAMPLES: &str = "\
Examples:
  aptvit memory build --run runs/mine --data photos/ --memory pets.safetensors
  aptvit memory add --run runs/mine --memory pets.safetensors --data new-classes/
  aptvit memory add --run runs/mine --memory pets.safetensors --class wolf wolf1.jpg wolf2.jpg
  aptvit infer --run runs/mine --memory pets.safetensors --explain photo.jpg
  aptvit memory eval --run runs/mine --memory pets.safetensors --data photos/
  aptvit memory list --memory pets.safetensors
  aptvit memory remove --memory pets.safetensors --class wolf
  aptvit memory build --run runs/mine --data photos/ --memory postgres://me@db.example/vision#pets

A memory holds what the model sees in labelled images. An agent decides for each image whether the model's own answer suffices
or the memory is asked, and how far the most similar entries are believed. It learns when the memory is built; what is added
later needs no training.";

#[derive(Debug, Parser)]
#[command(after_help = EXAMPLES)]
pub struct Memory {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Build a memory of labelled images, and teach its agent
    Build(build::Build),
    /// Add images: new classes, more of known ones, or the same picture with another class
    Add(add::Add),
    /// Remove images, by their ids, their class or where they came from
    Remove(remove::Remove),
    /// Show what a memory holds
    List(list::List),
    /// Measure a model with and without its memory on labelled images
    Eval(eval::Eval),
}

/// Which memory.
#[derive(Debug, Args)]
pub struct MemoryArgs {
    /// The memory: a file, or a table of a PostgreSQL database with pgvector, as postgres://user@host/database#name
    #[arg(long, value_name = "ADDRESS")]
    pub memory: String,
}

pub fn run(args: &Memory, global: &Global) -> Result<End> {
    match &args.command {
        Command::Build(build) => build::run(build, global),
        Command::Add(add) => add::run(add, global),
        Command::Remove(remove) => remove::run(remove, global),
        Command::List(list) => list::run(list, global),
        Command::Eval(eval) => eval::run(eval, global),
    }
}
