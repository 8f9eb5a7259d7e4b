//! Whole-system tests: what a person or a program outside sees, under every arrangement.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr
)]

mod calls;
mod cli;
mod config;
mod crash;
mod crash_points;
mod data;
mod database_server;
mod dead_letters;
mod documents;
mod equivalence;
mod events;
mod faults;
mod files;
mod guide;
mod hostile;
mod hostile_bus;
mod http;
mod kit;
mod mistakes;
mod nemesis;
mod nodes;
mod nodes_cli;
mod openapi;
mod outage;
mod refusals;
mod replicas;
mod retries;
mod road;
mod schedules;
mod secure_bus;
mod shop;
