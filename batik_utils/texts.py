"""What the application says, in English and Indonesian.

    >>> from batik_utils import texts
    >>> texts.say("id", "title")
    'Motif batik apa ini?'

Both languages have the same keys, which a test checks. Motif texts are kept short and to what is
commonly told about the cloth; Javanese and Indonesian terms stay in their own spelling.
"""

from batik_utils.errors import BatikError
from batik_utils.predict import Prediction

#: Language code to its own name.
LANGUAGES = {"en": "English", "id": "Bahasa Indonesia"}

#: Motif: name as written on labels, origin, how to know it, meaning.
MOTIFS = {
    "en": {
        "betawi": (
            "Betawi",
            "The cloth of the Betawi people of Jakarta, kin to the colourful batik of Java's "
            "north coast.",
            "Bright grounds, a border of tall triangles (<i>tumpal</i>), and scenes and figures of "
            "the city: <i>ondel-ondel</i> giants, birds, flowers, boats on the Ciliwung.",
            "The <i>ondel-ondel</i> are puppets that keep misfortune away; the cloth tells of "
            "a port where Malay, Javanese, Chinese, Arab and European ways met.",
        ),
        "sidoluhur": (
            "Sidoluhur",
            "Classical cloth of the court cities Surakarta and Yogyakarta in central Java.",
            "A lattice of lozenges over the whole cloth, an ornament in each: wings "
            "(<i>lar</i>), plants, pavilions. Traditionally in <i>sogan</i> brown, indigo and "
            "cream.",
            "Javanese <i>sido</i>, to come true, and <i>luhur</i>, noble: the wish for a noble "
            "and respected life. Worn at weddings, like its relatives Sidomukti and Sidomulyo.",
        ),
        "tambal": (
            "Tambal",
            "Classical cloth of central Java, known above all from Yogyakarta and Surakarta.",
            "Looks like patchwork, but is one piece of cloth: triangles and rectangles, each "
            "with another pattern, such as <i>kawung</i>, <i>parang</i> or <i>ceplok</i>.",
            "<i>Tambal</i> means to patch or mend: mending what is lacking in oneself. By "
            "tradition it was laid over the sick to help them recover.",
        ),
    },
    "id": {
        "betawi": (
            "Betawi",
            "Kain orang Betawi di Jakarta, sekerabat dengan batik pesisir utara Jawa yang "
            "berwarna-warni.",
            "Latar cerah, pinggiran segitiga tinggi (<i>tumpal</i>), serta gambar kehidupan "
            "kota: ondel-ondel, burung, bunga, perahu di Ciliwung.",
            "Ondel-ondel dipercaya menolak bala; kain ini bercerita tentang kota pelabuhan "
            "tempat budaya Melayu, Jawa, Tionghoa, Arab, dan Eropa bertemu.",
        ),
        "sidoluhur": (
            "Sidoluhur",
            "Kain klasik dari kota keraton Surakarta dan Yogyakarta.",
            "Kisi belah ketupat di seluruh kain, masing-masing berisi ragam hias: sayap "
            "(<i>lar</i>), tumbuhan, bangunan. Secara tradisional berwarna <i>sogan</i>, biru "
            "indigo, dan krem.",
            "Dalam bahasa Jawa <i>sido</i> berarti jadi atau terlaksana, dan <i>luhur</i> "
            "berarti mulia: harapan akan hidup yang luhur dan dihormati. Dipakai dalam "
            "pernikahan, seperti kerabatnya Sidomukti dan Sidomulyo.",
        ),
        "tambal": (
            "Tambal",
            "Kain klasik dari Jawa bagian tengah, terutama Yogyakarta dan Surakarta.",
            "Tampak seperti kain perca, tetapi dibatik pada satu kain: bidang segitiga dan "
            "segi empat, masing-masing dengan pola lain, misalnya <i>kawung</i>, "
            "<i>parang</i>, atau <i>ceplok</i>.",
            "<i>Tambal</i> berarti menambal atau memperbaiki: memperbaiki kekurangan diri. "
            "Menurut tradisi, kain ini diselimutkan pada orang sakit agar lekas sembuh.",
        ),
    },
}

_SAY = {
    "en": {
        "title": "Which batik motif is it?",
        "intro": "Shows how sure a small neural network is that a picture shows **Betawi**, "
        "**Sidoluhur** or **Tambal** cloth, or none of these.",
        "language": "Language",
        "one": "One picture",
        "many": "Several pictures",
        "about": "About",
        "picture": "Your picture",
        "placeholder": "Drop a picture here, or choose a file",
        "examples": "No picture at hand? Try cloth that a computer drew",
        "result": "Answer",
        "waiting": "The answer appears here as soon as there is a picture.",
        "why": "Show what mattered",
        "heat": "What mattered",
        "heat_note": "Warm: hiding this place makes the answer {motif} less likely. The place "
        "that mattered most lowers it by {drop}.",
        "heat_none": "Hiding no place of this picture makes the answer less likely.",
        "heat_first": "First choose a picture that is not refused.",
        "files": "Your pictures",
        "files_note": "At most {count} pictures of at most {mb} MB each.",
        "go": "Name the motifs",
        "table": "Answers",
        "csv": "Download the table (CSV)",
        "headers": ["File", "Answer", "Motif", "How likely", "Remark"],
        "nothing": "Choose at least one picture.",
        "too_many": "Those are {found} pictures; at most {count} are taken at once. The command "
        "“python -m batik_utils predict FOLDER” takes any number.",
        "summary": "{count} pictures: {motifs}; none of these: {none}; refused: {refused}.",
        "origin": "Origin",
        "signs": "How to know it",
        "meaning": "Meaning",
        "sure": "{motif}",
        "sure_note": "Calibrated on pictures that the model had not seen: of a hundred "
        "answers like this one, about {hundred} are right.",
        "unsure": "Perhaps {motif}",
        "unsure_note": "The model is not sure. Another picture may help: one cloth, straight "
        "on, the motif filling the picture.",
        "none": "None of these",
        "none_note": "The picture does not look like the three motifs this model knows. There "
        "are many more batik motifs. If it had to be one of the three:",
        "refused": "This file cannot be used",
        "verdict_sure": "sure",
        "verdict_unsure": "not sure",
        "verdict_none": "none of these",
        "verdict_refused": "refused",
        "kind_empty": "The file is empty.",
        "kind_bytes": "The file is too large.",
        "kind_pixels": "The picture has too many pixels to be opened safely.",
        "kind_unreadable": "The file cannot be read. Please choose it again.",
        "kind_format": "This is not a picture in JPEG, PNG, WebP, GIF, BMP or TIFF format.",
        "kind_damaged": "The picture is damaged or incomplete.",
        "kind_small": "The picture is too small to show a motif: 32 pixels a side are needed.",
        "kind_plain": "The picture shows hardly anything but one colour.",
        "failed": "Something went wrong here. Please try again, or with another picture.",
        "probabilities": "How likely, if it is one of the three",
        "about_text": "**What it is.** A neural network that was trained on 150 web photographs of "
        "three Indonesian batik motifs. Its model card tells what it was measured on, and how "
        "often it was right.\n\n"
        "**What it cannot do.** It knows three motifs of very many. It cannot tell hand-drawn "
        "(*batik tulis*), stamped (*batik cap*) and printed cloth apart, and it cannot say "
        "how old or how valuable a cloth is. Ask the people who make it.\n\n"
        "**Your pictures.** They are only used for your answer and deleted from the server "
        "after {minutes} minutes at the latest. Nothing is passed on, nothing is counted.",
        "card": "Model card",
        "example": "Example",
        "web_private": "Your picture stays here: this page works in your browser and sends "
        "nothing. It reads JPEG, PNG, WebP, GIF and BMP.",
    },
    "id": {
        "title": "Motif batik apa ini?",
        "intro": "Menunjukkan seberapa yakin sebuah jaringan saraf kecil bahwa gambar "
        "memperlihatkan kain **Betawi**, **Sidoluhur**, atau **Tambal**, atau bukan ketiganya.",
        "language": "Bahasa",
        "one": "Satu gambar",
        "many": "Beberapa gambar",
        "about": "Tentang",
        "picture": "Gambar Anda",
        "placeholder": "Letakkan gambar di sini, atau pilih berkas",
        "examples": "Tidak punya gambar? Coba kain yang digambar komputer",
        "result": "Jawaban",
        "waiting": "Jawaban muncul di sini begitu ada gambar.",
        "why": "Tunjukkan bagian yang penting",
        "heat": "Bagian yang penting",
        "heat_note": "Hangat: bila bagian ini ditutup, jawaban {motif} menjadi kurang mungkin. "
        "Bagian terpenting menurunkannya sebesar {drop}.",
        "heat_none": "Menutup bagian mana pun tidak membuat jawaban ini kurang mungkin.",
        "heat_first": "Pilih dahulu gambar yang tidak ditolak.",
        "files": "Gambar-gambar Anda",
        "files_note": "Paling banyak {count} gambar, masing-masing paling besar {mb} MB.",
        "go": "Sebutkan motifnya",
        "table": "Jawaban",
        "csv": "Unduh tabel (CSV)",
        "headers": ["Berkas", "Jawaban", "Motif", "Kemungkinan", "Catatan"],
        "nothing": "Pilih paling sedikit satu gambar.",
        "too_many": "Ada {found} gambar; paling banyak {count} sekaligus. Perintah “python -m "
        "batik_utils predict FOLDER” menerima berapa pun.",
        "summary": "{count} gambar: {motifs}; bukan ketiganya: {none}; ditolak: {refused}.",
        "origin": "Asal",
        "signs": "Ciri-ciri",
        "meaning": "Makna",
        "sure": "{motif}",
        "sure_note": "Dikalibrasi pada gambar yang belum pernah dilihat model: dari seratus "
        "jawaban seperti ini, sekitar {hundred} benar.",
        "unsure": "Mungkin {motif}",
        "unsure_note": "Model ini tidak yakin. Gambar lain mungkin membantu: satu kain, difoto "
        "tegak lurus, motif memenuhi gambar.",
        "none": "Bukan ketiganya",
        "none_note": "Gambar ini tidak mirip dengan ketiga motif yang dikenal model. Masih banyak "
        "motif batik lain. Seandainya harus salah satu dari ketiganya:",
        "refused": "Berkas ini tidak dapat dipakai",
        "verdict_sure": "yakin",
        "verdict_unsure": "tidak yakin",
        "verdict_none": "bukan ketiganya",
        "verdict_refused": "ditolak",
        "kind_empty": "Berkas ini kosong.",
        "kind_bytes": "Berkas ini terlalu besar.",
        "kind_pixels": "Gambar ini terlalu banyak pikselnya untuk dibuka dengan aman.",
        "kind_unreadable": "Berkas ini tidak dapat dibaca. Silakan pilih lagi.",
        "kind_format": "Ini bukan gambar berformat JPEG, PNG, WebP, GIF, BMP, atau TIFF.",
        "kind_damaged": "Gambar ini rusak atau tidak lengkap.",
        "kind_small": "Gambar ini terlalu kecil untuk menampakkan motif: setiap sisi harus "
        "paling sedikit 32 piksel.",
        "kind_plain": "Gambar ini hampir hanya menampakkan satu warna.",
        "failed": "Ada yang tidak beres. Silakan coba lagi, atau dengan gambar lain.",
        "probabilities": "Seberapa mungkin, jika salah satu dari ketiganya",
        "about_text": "**Apa ini?** Jaringan saraf yang dilatih dengan 150 foto dari web untuk "
        "tiga motif batik Indonesia. Kartu modelnya menerangkan pengukuran dan seberapa sering "
        "jawabannya benar.\n\n"
        "**Yang tidak dapat dilakukannya.** Model ini mengenal tiga motif dari sekian banyak. "
        "Ia tidak dapat membedakan *batik tulis*, *batik cap*, dan kain cetak (printing), dan "
        "tidak tahu umur atau nilai kain. Bertanyalah kepada pembatiknya.\n\n"
        "**Gambar Anda.** Hanya dipakai untuk jawaban Anda dan dihapus dari server paling "
        "lambat setelah {minutes} menit. Tidak ada yang diteruskan, tidak ada yang dihitung.",
        "card": "Kartu model",
        "example": "Contoh",
        "web_private": "Gambar Anda tetap di sini: halaman ini bekerja di peramban Anda dan tidak "
        "mengirim apa pun. Yang dapat dibaca: JPEG, PNG, WebP, GIF, dan BMP.",
    },
}


def say(language: str, key: str, **values: object) -> str:
    """Return a sentence.

    Args:
        language: a key of ``LANGUAGES``.
        key: what to say.
        values: what to fill in.

    Raises:
        BatikError: an unknown language.
    """
    return _table(language)[key].format(**values)


def all_said(language: str) -> dict[str, str]:
    """Return every sentence with its places still open, for the page in the browser alone."""
    return {key: words for key, words in _table(language).items() if isinstance(words, str)}


def headers(language: str) -> list[str]:
    """Return the column heads of the table of answers."""
    return list(_table(language)["headers"])


def motif_name(language: str, motif: str) -> str:
    """Return a motif as it is written on labels; an unknown one with a capital letter."""
    known = MOTIFS[language].get(motif)
    return known[0] if known else motif.capitalize()


def percent(share: float) -> str:
    """Return a share (0 to 1) as whole percent; never "100 %", which nothing measured is."""
    if share > 0.99:
        return "> 99 %"
    return "< 1 %" if share < 0.01 else f"{share:.0%}".replace("%", " %")


def remark(language: str, answer: Prediction) -> str:
    """Return the sentence about an answer that is not sure; empty for a sure one."""
    if answer.verdict == "refused":
        return say(language, f"kind_{answer.kind}")
    if answer.verdict == "none":
        return say(language, "none_note").split(". ")[0] + "."
    if answer.verdict == "unsure":
        return say(language, "unsure_note").split(". ")[0] + "."
    return ""


def _table(language: str) -> dict:
    if language not in _SAY:
        raise BatikError(f"Unknown language '{language}': choose {' or '.join(_SAY)}.")
    return _SAY[language]
