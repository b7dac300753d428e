"""What one would write in an afternoon: a thread pool, and one call of onnxruntime for each request."""

from __future__ import annotations

import argparse
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import numpy as np
import onnxruntime
from headwaiter_proto.v1 import inference_pb2, inference_pb2_grpc
from tokenizers import Tokenizer


class Service(inference_pb2_grpc.InferenceServiceServicer):  # type: ignore[misc] # generated without types
    """Embeds; the only method."""

    def __init__(self, graph: Path, tokenizer: Path, threads: int) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self.session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        self.inputs = {each.name for each in self.session.get_inputs()}
        self.tokenizer = Tokenizer.from_file(str(tokenizer))
        self.tokenizer.enable_padding()
        self.tokenizer.no_truncation()

    def Embed(  # noqa: N802 - gRPC's name
        self, request: inference_pb2.EmbedRequest, _context: grpc.ServicerContext
    ) -> inference_pb2.EmbedResponse:
        """One run for the request's texts."""
        encodings = self.tokenizer.encode_batch(list(request.texts))
        feeds = {
            "input_ids": np.array([each.ids for each in encodings], np.int64),
            "attention_mask": np.array([each.attention_mask for each in encodings], np.int64),
            "token_type_ids": np.array([each.type_ids for each in encodings], np.int64),
        }
        (vectors,) = self.session.run(["unit_embedding"], {name: feeds[name] for name in self.inputs})
        return inference_pb2.EmbedResponse(vectors=vectors.tobytes(), dimension=vectors.shape[1])


def main() -> None:
    """Serve until ended."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("graph", type=Path)
    parser.add_argument("tokenizer", type=Path)
    parser.add_argument("--threads", type=int, default=1, help="of one run")
    parser.add_argument("--workers", type=int, default=2, help="of the pool")
    options = parser.parse_args()
    server = grpc.server(ThreadPoolExecutor(options.workers))
    service = Service(options.graph, options.tokenizer, options.threads)
    inference_pb2_grpc.add_InferenceServiceServicer_to_server(service, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print(f"ready grpc=127.0.0.1:{port}", flush=True)
    server.wait_for_termination()


if __name__ == "__main__":
    main()
