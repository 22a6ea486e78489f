// Property tests draw the same cases in every run, so that a change that breaks one is the change that is to blame.
// PROPERTY_SEED=random draws others (a failure prints its seed), PROPERTY_SEED=N those of one run again.
import fc from 'fast-check';

const wanted = process.env.PROPERTY_SEED ?? '1069';
if (wanted !== 'random') fc.configureGlobal({ seed: Number(wanted) });
