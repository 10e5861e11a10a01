// The part of the page that runs in the browser and that Gradio lacks: chats saved in localStorage, files read and
// written without the server's disk, and the choice of the language. This script runs first; the events of
// app/web/page.py call the functions of `glm`. Gradio's BrowserState is not used: it keeps all chats under one key, so
// that two open tabs overwrite each other's, and sends them all to the server with every event. Here each chat has its
// own key and stays in the browser.
"use strict";

const glm = (() => {
  const PREFIX = "glm-chat:"; // + id -> {title, updated, messages: [{role, content}]}
  const CURRENT = "glm-chat-current"; // in sessionStorage: the id of the chat in this tab, which a reload keeps
  const LARGEST_FILE = 4000000; // characters: MAX_IMPORT_CHARS of app/serving/conversation.py

  // --- the language: Gradio reads it from the navigator and has two locales for Chinese, zh-CN and zh-TW

  const wanted = settings.language === "auto" ? navigator.language : settings.language;
  const chinese = /^zh\b/i.test(wanted);
  const traditional = /\b(hant|tw|hk|mo)\b/i.test(wanted);
  const locale = chinese ? (traditional ? "zh-TW" : "zh-CN") : settings.language === "en" ? "en" : navigator.language;
  Object.defineProperty(navigator, "language", { value: locale, configurable: true });
  document.documentElement.lang = chinese ? locale : "en";
  const words = settings.words[chinese ? "zh" : "en"];

  // --- text: the server marks formulas and possible HTML with an invisible character (app/web/security.py)

  const MARKS = /(<|!|```|\$\$?|\\[[(])\u2060|\u2060(\$\$?|\\[\])])|(<|!|```)\r(?=[A-Za-z/!?[])/g;
  const plain = (text) => text.replace(MARKS, "$1$2$3");

  const textOf = (message) =>
    typeof message.content === "string" ? message.content : message.content.map((part) => part.text ?? "").join("");

  const messagesOf = (transcript) =>
    (transcript ?? []).map((message) => ({ role: message.role, content: plain(textOf(message)) }));

  // The conversation that the page shows, kept up to date by `save`.
  let conversation = [];

  // Returns an event's inputs with the conversation in the first one, for the server.
  const withHistory = (carrier, ...others) => [JSON.stringify(conversation), ...others];

  // --- an answer: no other conversation may be shown until it has ended, or its rest would appear in that one

  let answering = false;

  function ask(...inputs) {
    answering = true;
    const view = document.querySelector("#transcript .bubble-wrap");
    if (view) view.scrollTop = view.scrollHeight; // Gradio then scrolls along with the answer
    return withHistory(...inputs);
  }

  function answered() {
    answering = false;
  }

  async function endOfAnswer() {
    for (let waited = 0; answering && waited < 5000; waited += 20) {
      stop();
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
  }

  const stop = () => document.querySelector("#message .stop-button")?.click();

  // --- the clipboard

  // Copied text must not contain the marks. This covers a selection, and the copy button on a page without HTTPS ...
  document.addEventListener("copy", (event) => {
    const field = document.activeElement;
    const selected =
      field instanceof HTMLTextAreaElement
        ? field.value.slice(field.selectionStart, field.selectionEnd)
        : String(document.getSelection());
    if (plain(selected) !== selected) {
      event.clipboardData.setData("text/plain", plain(selected));
      event.preventDefault();
    }
  });
  // ... and this the copy button on a page with HTTPS.
  if (navigator.clipboard) {
    const write = navigator.clipboard.writeText.bind(navigator.clipboard);
    navigator.clipboard.writeText = (text) => write(plain(text));
  }

  // --- saved chats

  // Returns the browser's storage, or one that lasts as long as the page if the browser forbids it.
  function storage(name) {
    try {
      return window[name];
    } catch {
      return Object.create({
        getItem(key) {
          return this[key] ?? null;
        },
        setItem(key, value) {
          this[key] = value;
        },
        removeItem(key) {
          delete this[key];
        },
      });
    }
  }
  const localStorage = storage("localStorage");
  const sessionStorage = storage("sessionStorage");

  const read = (id) => {
    try {
      const chat = JSON.parse(localStorage.getItem(PREFIX + id));
      return Array.isArray(chat?.messages) ? chat : null;
    } catch {
      return null;
    }
  };

  const current = () => sessionStorage.getItem(CURRENT);
  const setCurrent = (id) => (id ? sessionStorage.setItem(CURRENT, id) : sessionStorage.removeItem(CURRENT));

  const newId = () => Date.now().toString(36) + "-" + Math.random().toString(36).slice(2, 10);

  const titleOf = (messages) => {
    const asked = messages.find((message) => message.role === "user") ?? messages[0];
    return asked.content.trim().split("\n")[0].slice(0, 60);
  };

  let full = false; // the storage is full: the alert is shown once, not at every update of an answer

  function store(id, messages) {
    const chat = { title: titleOf(messages), updated: Date.now(), messages };
    try {
      localStorage.setItem(PREFIX + id, JSON.stringify(chat));
    } catch {
      if (!full) window.alert(words.list_full);
      full = true;
    }
  }

  function save(transcript) {
    const messages = messagesOf(transcript);
    conversation = messages;
    if (!messages.length) return;
    if (!current()) setCurrent(newId());
    const before = read(current());
    if (before && JSON.stringify(before.messages) === JSON.stringify(messages)) return;
    store(current(), messages);
    if (before?.title !== titleOf(messages) || first !== current()) draw();
  }

  const list = () =>
    Object.keys(localStorage)
      .filter((key) => key.startsWith(PREFIX))
      .map((key) => ({ id: key.slice(PREFIX.length), ...read(key.slice(PREFIX.length)) }))
      .filter((chat) => chat.messages)
      .sort((one, other) => other.updated - one.updated);

  async function startNew() {
    focusBox();
    await endOfAnswer();
    setCurrent(null);
    draw();
    return [];
  }

  async function forgetShown() {
    await endOfAnswer();
    forget(current());
    return [];
  }

  // Gradio's clear button asks nothing and its event comes after the conversation is gone: its click is intercepted.
  document.addEventListener(
    "click",
    (event) => {
      if (!event.target.closest?.("#transcript .top-panel button") || !shown()) return;
      if (!window.confirm(words.list_confirm)) event.stopImmediatePropagation();
    },
    true,
  );

  function forget(id) {
    localStorage.removeItem(PREFIX + id);
    if (id === current()) setCurrent(null);
    draw();
  }

  const shown = () => {
    const chat = current() && read(current());
    return chat ? JSON.stringify(chat.messages) : "";
  };

  // --- the list of saved chats: triggers the events "open" and "removed" for the current chat

  let panel = null;
  let first = null; // the id of the chat at the top of the list on the page

  function attach(element, trigger) {
    panel = { element, trigger };
    draw();
    window.addEventListener("storage", draw); // another tab has saved or deleted a chat
  }

  function draw() {
    if (!panel) return;
    const chats = list();
    first = chats[0]?.id;
    const rows = chats.map((chat) => {
      const row = document.createElement("li");
      row.className = chat.id === current() ? "shown" : "";
      row.append(button("open", chat.title || "…", () => open(chat.id)), button("delete", "×", () => remove(chat.id)));
      row.firstChild.title = chat.title;
      row.lastChild.title = words.list_delete;
      row.lastChild.setAttribute("aria-label", words.list_delete);
      return row;
    });
    const drawn = document.createElement(rows.length ? "ul" : "p");
    drawn.className = "glm-chats";
    drawn.append(...(rows.length ? rows : [words.list_empty]));
    panel.element.replaceChildren(drawn);
  }

  function button(name, label, act) {
    const made = document.createElement("button");
    made.type = "button";
    made.className = name;
    made.textContent = label;
    made.addEventListener("click", act);
    return made;
  }

  async function open(id) {
    focusBox();
    await endOfAnswer();
    setCurrent(id);
    draw();
    panel.trigger("open");
  }

  async function remove(id) {
    if (!window.confirm(words.list_confirm)) return;
    if (id === current()) {
      await forgetShown();
      panel.trigger("removed");
    } else {
      forget(id);
    }
  }

  // --- files: read and written in the browser, so that no conversation is written to the server's disk

  function download(text, ending) {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], { type: "text/plain" }));
    link.download = "chat-" + new Date().toISOString().slice(0, 10) + "." + ending;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  }

  function pickFile() {
    return new Promise((resolve) => {
      const input = document.createElement("input");
      input.type = "file";
      input.accept = ".json,.md,.markdown,.txt,application/json,text/markdown,text/plain";
      input.addEventListener("cancel", () => resolve(""));
      input.addEventListener("change", async () => {
        const file = input.files[0];
        if (file.size > 4 * LARGEST_FILE) {
          window.alert(words.list_too_large);
          resolve("");
        } else {
          resolve((await file.text()) || "\n"); // "" means that no file was chosen
        }
      });
      input.click();
    });
  }

  // Stores an imported conversation, JSON from the server or "" if it could not be read, as a new chat and opens it.
  function imported(json) {
    const messages = json ? JSON.parse(json).messages : [];
    if (!messages.length) return;
    const id = newId();
    store(id, messages);
    open(id);
  }

  // --- the side bar: open if the window is wide enough for it and the conversation

  const sideBar = () => ({ open: window.innerWidth > 900, __type__: "update" });

  function showChat() {
    focusBox();
    return { selected: "chat", __type__: "update" };
  }

  // --- blanks: inserts [MASK] at the cursor, or in place of the selection

  function insertBlank(text) {
    const field = document.querySelector("#fill-text textarea");
    const [start, end] = [field.selectionStart, field.selectionEnd];
    const blank = "[MASK]";
    setTimeout(() => {
      field.focus();
      field.setSelectionRange(start + blank.length, start + blank.length);
    }, 50); // after Gradio has updated the text
    return text.slice(0, start) + blank + text.slice(end);
  }

  // --- light and dark: the system's choice, or the visitor's

  const THEME = "glm-theme";

  function showTheme() {
    const chosen = localStorage.getItem(THEME);
    if (chosen) document.body.classList.toggle("dark", chosen === "dark");
  }

  function toggleTheme() {
    localStorage.setItem(THEME, document.body.classList.contains("dark") ? "light" : "dark");
    showTheme();
  }

  // --- the keyboard: moves the focus to the message box, and lets Escape stop the answer or filling in the open tab

  // Waits while the other tab is open, and does nothing if another text field has the focus. It does nothing on touch
  // screens either, where the keyboard would cover the conversation.
  function focusBox(patience = 50) {
    if (window.matchMedia("(pointer: coarse)").matches) return;
    if (document.activeElement?.matches("input, textarea")) return;
    const field = document.querySelector("#message textarea");
    if (field?.offsetParent) field.focus();
    else if (patience) setTimeout(focusBox, 20, patience - 1);
  }

  document.addEventListener("keydown", (event) => {
    if (event.key !== "Escape" || event.isComposing) return;
    for (const name of ["#message .stop-button", "#fill-stop"]) {
      const button = document.querySelector(name);
      if (button?.offsetParent) button.click();
    }
  });

  return {
    withHistory, ask, answered, save, startNew, forgetShown, shown, attach,
    download, pickFile, imported, sideBar, showChat, insertBlank, showTheme, toggleTheme, focusBox,
  };
})();
