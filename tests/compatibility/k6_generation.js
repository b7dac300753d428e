// What k6 streams: texts that are generated, each checked to its end. All it needs is in the environment.
import { check } from "k6";
import grpc from "k6/net/grpc";

export const options = {
  scenarios: { calls: { executor: "per-vu-iterations", vus: 4, iterations: 10, maxDuration: "60s" } },
  thresholds: { checks: ["rate==1"] },
};

const client = new grpc.Client();
if (__ENV.PROTO) client.load([__ENV.PROTO], "headwaiter_proto/v1/inference.proto");
const METHOD = "headwaiter.v1.InferenceService/GenerateStream";
const request = { model: "pronounce", texts: ["onomatopoeia"] };

export default function () {
  if (__ITER === 0) client.connect(__ENV.TARGET, { plaintext: true, reflect: !__ENV.PROTO });
  const whole = client.invoke("headwaiter.v1.InferenceService/Generate", request);
  const stream = new grpc.Stream(client, METHOD);
  let [text, pieces, last, failed] = ["", 0, null, null];
  stream.on("data", (piece) => {
    text += piece.text || "";
    pieces += 1;
    last = piece;
  });
  stream.on("error", (error) => (failed = error));
  stream.on("end", () =>
    check(null, {
      good: () => failed === null && whole.status === grpc.StatusOK,
      same: () => text === whole.message.generations[0].text,
      pieces: () => pieces > 3,
      finished: () => Boolean(last.finished && last.timings),
    }),
  );
  stream.write(request);
  stream.end();
}

export function handleSummary(data) {
  const { checks } = data.metrics;
  return { stdout: JSON.stringify({ passes: checks.values.passes, fails: checks.values.fails }) };
}
