"""An HTTP server that answers as vLLM 0.30 does, with a tiny model behind it that our own code samples from."""

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

import torch

from tasks.rlhf import rollout

RAW, PROCESSED = "raw_logprobs", "processed_logprobs"


class Vllm:
    """The state of a server: what it serves, what it was asked, and how it misbehaves."""

    def __init__(self, folder, mode=PROCESSED, max_model_len=64, dev=True, lora=True):
        from transformers import AutoTokenizer

        self.folder, self.mode, self.room, self.dev, self.lora = folder, mode, max_model_len, dev, lora
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.restart()
        self.asked = []  # paths and bodies
        self.faults = []  # called with a path before it is answered; may raise Fault, and stays until it returns True
        self.lock = threading.RLock()

    def restart(self):
        from transformers import AutoModelForCausalLM

        self.model = AutoModelForCausalLM.from_pretrained(self.folder).eval()
        self.version, self.adapters, self.paused = "default", {}, False

    def answer(self, path, body):
        if path == "/v1/models":
            cards = [{"id": "policy", "root": str(self.folder), "parent": None, "max_model_len": self.room}]
            return {"object": "list", "data": cards + [{"id": n, "parent": "policy"} for n in self.adapters]}
        if path == "/tokenize":
            ids = self.tokenizer(body["prompt"], add_special_tokens=body["add_special_tokens"])["input_ids"]
            return {"count": len(ids), "max_model_len": self.room, "tokens": ids}
        if path == "/v1/completions":
            return self.complete(body)
        if self.lora and path == "/v1/load_lora_adapter":
            return self.load_adapter(**body)
        if self.lora and path == "/v1/unload_lora_adapter":
            del self.adapters[body["lora_name"]]
            return "Success"
        if self.dev:
            return self.answer_developer(path, body)
        raise Fault(404, {"detail": "Not Found"})

    def answer_developer(self, path, body):
        if path == "/weight_info":
            return {"weight_version": self.version}
        if path in ("/pause", "/resume"):
            self.paused = path == "/pause"
            return {"status": "paused" if self.paused else "resumed"}
        if path == "/collective_rpc":
            from transformers import AutoModelForCausalLM

            assert self.paused
            assert body["method"] == "reload_weights"
            fresh = AutoModelForCausalLM.from_pretrained(body["kwargs"]["weights_path"])
            self.model.load_state_dict(fresh.state_dict())
            return {"results": [None]}
        if path == "/reset_prefix_cache":
            return {"success": True}
        if path == "/update_weight_version":
            self.version = body["new_version"]
            return {"success": True, "new_version": self.version}
        raise Fault(404, {"detail": "Not Found"})

    def load_adapter(self, lora_name, lora_path):
        from peft import PeftModel
        from transformers import AutoModelForCausalLM

        if lora_name in self.adapters:
            raise Fault(400, {"error": {"message": f"The lora adapter {lora_name!r} has already been loaded."}})
        base = AutoModelForCausalLM.from_pretrained(self.folder)
        self.adapters[lora_name] = PeftModel.from_pretrained(base, lora_path).eval()
        return "Success"

    def complete(self, body):
        model = self.model if body["model"] == "policy" else self.adapters.get(body["model"])
        if model is None:
            raise Fault(404, {"error": {"message": f"The model `{body['model']}` does not exist.", "code": 404}})
        assert (body["top_p"], body["top_k"], body["min_p"], body["repetition_penalty"]) == (1.0, 0, 0.0, 1.0)
        assert (body["ignore_eos"], body["return_token_ids"], body["add_special_tokens"]) == (True, True, False)
        (eos_id,) = body["stop_token_ids"]
        settings = {"max_new_tokens": body["max_tokens"], "temperature": body["temperature"], "seed": body["seed"]}
        (reply,) = rollout.sample(model, [body["prompt"]], **settings, eos_id=eos_id, pad_id=0)
        logprobs = reply.logprobs
        if self.mode == RAW:  # before the temperature
            with torch.no_grad():
                logits = model(torch.tensor([body["prompt"] + reply.ids])).logits[0, len(body["prompt"]) - 1 : -1]
            logprobs = logits.log_softmax(-1).gather(1, torch.tensor(reply.ids)[:, None]).squeeze(1).tolist()
        choice = {
            "index": 0,
            "text": "",
            "logprobs": {"token_logprobs": logprobs, "tokens": [], "top_logprobs": [], "text_offset": []},
            "finish_reason": "stop" if reply.finished else "length",
            "token_ids": reply.ids,
            "prompt_token_ids": body["prompt"],
        }
        return {"id": "cmpl-0", "object": "text_completion", "model": body["model"], "choices": [choice]}


class Fault(Exception):  # noqa: N818
    """An answer that is an error; status 0 ends the connection without one."""

    def __init__(self, status, body=None):
        super().__init__(status)
        self.status, self.body = status, body


@contextmanager
def serving(vllm):
    """Its address."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_):
            pass

        def do_GET(self):
            path = urlsplit(self.path).path
            length = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(length)) if length else {}
            try:
                with vllm.lock:
                    vllm.asked.append((path, body))
                    for fault in list(vllm.faults):
                        if fault(path):
                            vllm.faults.remove(fault)
                    status, answer = 200, vllm.answer(path, body)
            except Fault as fault:
                status, answer = fault.status, fault.body
            if status == 0:
                self.close_connection = True
                self.connection.close()
                return
            text = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        do_POST = do_GET

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
