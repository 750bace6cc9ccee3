# SPDX-License-Identifier: Apache-2.0
"""The API of text-embeddings-inference.

Routes, shapes, statuses and headers as of its version 1.9
(https://github.com/huggingface/text-embeddings-inference, ``router/src``). Its routes for OpenAI's
API are in :mod:`compat.openai`.
"""
