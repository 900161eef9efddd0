//! The replays and redrives that run on this instance, and how they ended.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use anyhow::anyhow;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::conflict;
use crate::{
    api::Failure,
    connector::{Problem, ProblemCode},
    operations::{Progress, Run},
};

/// Replays and redrives that one instance runs at once.
pub const MAX_JOBS: usize = 4;
/// Redrives that are remembered after their end.
const MAX_ENDED: usize = 100;

/// The jobs of this instance.
#[derive(Clone, Default)]
pub struct Jobs(Arc<Mutex<Known>>);

#[derive(Default)]
struct Known {
    running: BTreeMap<String, Running>,
    /// How redrives ended, and why jobs failed.
    ended: VecDeque<(String, Value)>,
}

/// A job that runs here.
#[derive(Clone)]
pub struct Running {
    pub stop: CancellationToken,
    pub progress: Arc<Progress>,
}

/// The place of a job that runs here, which its task owns. A task that ends without telling how, which
/// is a panic, gives it back too.
pub struct Place {
    jobs: Jobs,
    job: String,
    running: Running,
    is_told: bool,
}

impl Jobs {
    /// Makes room for a job.
    pub fn begin(&self, job: &str) -> Result<Place, Failure> {
        let mut known = self.0.lock();
        if known.running.contains_key(job) {
            return Err(conflict(&format!("{job} runs here already.")));
        }
        if known.running.len() >= MAX_JOBS {
            let detail = format!("This instance runs {MAX_JOBS} jobs already: wait for one.");
            return Err(Problem::new(ProblemCode::RateLimited, detail).into());
        }
        let running =
            Running { stop: CancellationToken::new(), progress: Arc::new(Progress::default()) };
        known.running.insert(job.to_owned(), running.clone());
        Ok(Place { jobs: self.clone(), job: job.to_owned(), running, is_told: false })
    }

    /// A job, while it runs here.
    pub fn running(&self, job: &str) -> Option<Running> {
        self.0.lock().running.get(job).cloned()
    }

    /// How a job ended here, as long as that is remembered.
    pub fn ended(&self, job: &str) -> Option<Value> {
        let known = self.0.lock();
        known.ended.iter().rev().find(|(id, _)| id == job).map(|(_, how)| how.clone())
    }

    /// Asks all that run here to stop.
    pub fn stop(&self) {
        for running in self.0.lock().running.values() {
            running.stop.cancel();
        }
    }

    fn end(&self, job: &str, ended: anyhow::Result<Value>) {
        let how = ended.unwrap_or_else(|error| {
            tracing::warn!(job, error = format!("{error:#}"), "a job of the admin API failed");
            json!({"job": job, "state": "failed", "error": format!("{error:#}")})
        });
        let mut known = self.0.lock();
        known.running.remove(job);
        known.ended.push_back((job.to_owned(), how));
        if known.ended.len() > MAX_ENDED {
            known.ended.pop_front();
        }
    }
}

impl Place {
    /// How the job is to be run.
    pub fn run(&self, rate: f64) -> Run {
        let Running { stop, progress } = self.running.clone();
        Run { rate, stop, progress }
    }

    /// Gives the place back, and tells how the job ended.
    pub fn end(mut self, ended: anyhow::Result<Value>) {
        self.is_told = true;
        self.jobs.end(&self.job, ended);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if !self.is_told {
            let why = "its task ended early: the log says where it panicked, if this instance was \
                       not stopped";
            self.jobs.end(&self.job, Err(anyhow!(why)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_in_a_job_gives_its_place_back_and_is_told() {
        let jobs = Jobs::default();
        let place = jobs.begin("replay-1").unwrap();
        assert_eq!(jobs.begin("replay-1").err().unwrap().problem().code, ProblemCode::Conflict);
        assert!(jobs.running("replay-1").is_some() && jobs.ended("replay-1").is_none());
        let task = tokio::spawn(async move {
            let _run = place.run(1.0);
            panic!("a bug");
        });
        assert!(task.await.unwrap_err().is_panic());
        assert!(jobs.running("replay-1").is_none());
        let ended = jobs.ended("replay-1").unwrap();
        assert_eq!((&ended["job"], &ended["state"]), (&json!("replay-1"), &json!("failed")));
        assert!(ended["error"].as_str().unwrap().contains("ended early"), "{ended}");

        jobs.begin("replay-1").unwrap().end(Ok(json!({"state": "done"})));
        assert_eq!(jobs.ended("replay-1").unwrap(), json!({"state": "done"}), "the last end");
    }

    #[test]
    fn there_are_so_many_jobs_and_ends() {
        let jobs = Jobs::default();
        let mut places: Vec<Place> =
            (0..MAX_JOBS).map(|n| jobs.begin(&format!("redrive-{n}")).unwrap()).collect();
        let full = jobs.begin("redrive-x").err().unwrap();
        assert_eq!(full.problem().code, ProblemCode::RateLimited);
        jobs.stop();
        assert!(places.iter().all(|place| place.running.stop.is_cancelled()));
        places.pop().unwrap().end(Ok(Value::Null));
        for n in 0..=MAX_ENDED {
            jobs.begin(&format!("replay-{n}")).unwrap().end(Ok(json!(n)));
        }
        assert_eq!((jobs.ended("replay-0"), jobs.ended("replay-1")), (None, Some(json!(1))));
    }
}
