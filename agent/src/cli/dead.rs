//! `sealfarm-agent dead`: what nobody at the site could use.

use std::path::Path;

use clap::Subcommand;
use comfy_table::Table;
use sealfarm_common::cli::JsonFlag;
use sealfarm_common::exit::ExitError;
use sealfarm_common::rpc::Client;
use sealfarm_nats::letters::{Letter, LetterDetail};

use super::print_json;
use crate::api::{LetterParams, method};

#[derive(Debug, Subcommand)]
pub(super) enum Dead {
    /// Lists the letters, oldest first.
    List(JsonFlag),
    /// Shows one letter with its headers and payload.
    Show {
        /// Its number, from the list.
        number: u64,
        #[command(flatten)]
        json: JsonFlag,
    },
    /// Puts a letter back into the queue it came from, and takes it out of the list.
    Requeue {
        /// Its number, from the list.
        number: u64,
    },
}

pub(super) async fn run(repo: &Path, command: Dead) -> Result<(), ExitError> {
    let client = Client::from_repo(repo)?;
    match command {
        Dead::List(flag) => {
            let letters: Vec<Letter> = client.call(method::DEAD, ()).await?;
            if flag.json {
                return print_json(&letters);
            }
            let mut table = Table::new();
            table.set_header(Letter::COLUMNS);
            table.add_rows(letters.iter().map(Letter::cells));
            sealfarm_common::outln!("{table}");
        }
        Dead::Show { number, json } => {
            let detail: LetterDetail = client.call(method::DEAD_SHOW, LetterParams { number }).await?;
            if json.json {
                return print_json(&detail);
            }
            sealfarm_common::outln!("{}", detail.text());
        }
        Dead::Requeue { number } => {
            let letter: Letter = client.call(method::DEAD_REQUEUE, LetterParams { number }).await?;
            sealfarm_common::outln!("letter {number} is back under {}", letter.subject);
        }
    }
    Ok(())
}
