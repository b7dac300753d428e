// What k6 calls: an inference service by reflection or by its .proto, each call checked. All it needs is in the environment.
import { check } from "k6";
import encoding from "k6/encoding";
import grpc from "k6/net/grpc";

export const options = {
  scenarios: { calls: { executor: "per-vu-iterations", vus: 4, iterations: 25, maxDuration: "60s" } },
  thresholds: { checks: ["rate==1"] },
};

const client = new grpc.Client();
if (__ENV.PROTO) client.load([__ENV.PROTO], "headwaiter_proto/inference/grpc_service.proto");
const SERVICE = "inference.GRPCInferenceService";
const text = { name: "text", datatype: "BYTES", shape: [1, 1] };
const row = { datatype: "INT32", shape: [1, 16], contents: { int_contents: Array.from({ length: 16 }, (_, i) => i) } };

export default function () {
  if (__ITER === 0) client.connect(__ENV.TARGET, { plaintext: true, reflect: !__ENV.PROTO });
  const ready = client.invoke(`${SERVICE}/ModelReady`, { name: "minilm" });
  const embedded = client.invoke(`${SERVICE}/ModelInfer`, {
    model_name: "minilm",
    id: `${__VU}-${__ITER}`,
    inputs: [{ ...text, contents: { bytes_contents: [encoding.b64encode(`text ${__ITER}`)] } }],
  });
  const added = client.invoke(`${SERVICE}/ModelInfer`, {
    model_name: "simple",
    inputs: [{ name: "INPUT0", ...row }, { name: "INPUT1", ...row }],
  });
  const unknown = client.invoke(`${SERVICE}/ModelInfer`, { model_name: "nobody" });
  check(null, {
    ready: () => ready.status === grpc.StatusOK && ready.message.ready,
    embedded: () => embedded.status === grpc.StatusOK && embedded.message.id === `${__VU}-${__ITER}`,
    vector: () => encoding.b64decode(embedded.message.rawOutputContents[0]).byteLength === 4 * 384,
    added: () => new Int32Array(encoding.b64decode(added.message.rawOutputContents[0]))[15] === 30,
    unknown: () => unknown.status === grpc.StatusNotFound,
  });
}

export function handleSummary(data) {
  const { checks, grpc_req_duration } = data.metrics;
  const figures = { passes: checks.values.passes, fails: checks.values.fails, median_ms: grpc_req_duration.values.med };
  return { stdout: JSON.stringify(figures) };
}
