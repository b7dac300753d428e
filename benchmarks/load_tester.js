// What k6 sends: the calls of load_tester.py, evenly spaced. Everything it needs comes in the environment.
import { check } from "k6";
import { SharedArray } from "k6/data";
import exec from "k6/execution";
import grpc from "k6/net/grpc";

const seconds = Number(__ENV.SECONDS);
const warmup = Number(__ENV.WARMUP_SECONDS);
const texts = new SharedArray("texts", () => open(__ENV.TEXTS).trimEnd().split("\n"));
const client = new grpc.Client();
client.load([__ENV.PROTO], "headwaiter_proto/v1/inference.proto");

function stretch(startSeconds, lengthSeconds) {
  return {
    executor: "constant-arrival-rate",
    // A rate may only be a whole number, but of any unit of time.
    rate: Math.round(Number(__ENV.RATE) * 60),
    timeUnit: "60s",
    startTime: `${startSeconds}s`,
    duration: `${lengthSeconds}s`,
    preAllocatedVUs: Number(__ENV.CALLERS),
    gracefulStop: "5s",
  };
}

export const options = {
  scenarios: { warmup: stretch(0, warmup), measured: stretch(warmup, seconds) },
  // Without a threshold a scenario has no figures of its own in the summary.
  thresholds: { "grpc_req_duration{scenario:measured}": ["max>=0"], "checks{scenario:measured}": ["rate>=0"] },
  summaryTrendStats: ["count", "med", "p(99)", "max"],
};

export default function () {
  if (exec.vu.iterationInInstance === 0) client.connect(__ENV.TARGET, { plaintext: true });
  const text = texts[exec.scenario.iterationInTest % texts.length];
  const request = { model: __ENV.MODEL, texts: [text] };
  // Turning vectors into JavaScript's objects would take the server's share of the processor.
  const how = { timeout: `${__ENV.DEADLINE_SECONDS}s`, discardResponseMessage: true };
  const response = client.invoke("headwaiter.v1.InferenceService/Embed", request, how);
  check(response, { answered: (each) => each && each.status === grpc.StatusOK });
}

export function handleSummary(data) {
  const durations = data.metrics["grpc_req_duration{scenario:measured}"].values;
  const checks = data.metrics["checks{scenario:measured}"].values;
  const figures = {
    calls: durations.count,
    failed: checks.fails,
    p50_seconds: durations.med / 1000,
    p99_seconds: durations["p(99)"] / 1000,
  };
  return { stdout: JSON.stringify(figures) };
}
