//! `sealfarm-miner dead`: what nobody could use.

use clap::Subcommand;
use comfy_table::Table;
use sealfarm_common::cli::JsonFlag;
use sealfarm_common::exit::ExitError;
use sealfarm_nats::letters::{Letter, LetterDetail};

use super::print_json;
use super::repo::Repo;
use super::show::client;
use crate::api::method;
use crate::api::methods::LetterParams;

#[derive(Debug, Subcommand)]
pub(super) enum Dead {
    /// Lists the letters of the hub, oldest first; those of sites are shown without their payload.
    List(JsonFlag),
    /// Shows one letter with its headers and payload.
    Show {
        /// Its number, from the list.
        number: u64,
        #[command(flatten)]
        json: JsonFlag,
    },
}

pub(super) async fn run(repo: &Repo, command: Dead) -> Result<(), ExitError> {
    let client = client(repo)?;
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
    }
    Ok(())
}
