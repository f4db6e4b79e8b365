"""What the application says, in English and Indonesian.

    >>> from batik_utils.app.server import texts
    >>> texts.say("id", "title")
    'Motif batik apa ini?'

Both languages have the same keys, which a test checks. Motif texts are short and say what their
`SOURCES` say, which are shown beside them. Javanese and Indonesian terms stay in their spelling.
"""

import html

from batik_utils.app.predict import Prediction
from batik_utils.errors import BatikError

#: Language code to its own name.
LANGUAGES = {"en": "English", "id": "Bahasa Indonesia"}

#: Motif: name as written on labels, origin, how to know it, meaning.
MOTIFS = {
    "en": {
        "betawi": (
            "Betawi",
            "The cloth of Jakarta and its Betawi people. In a port where many peoples met it took "
            "up motifs from all over Java: bouquets of flowers from Pekalongan, the "
            "<i>garuda</i> from Surakarta and Yogyakarta.",
            "Very bright colours; a band of tall triangles, <i>pucuk rebung</i> (bamboo shoots), "
            "also called <i>pasung</i> or <i>tumpal</i>; and what is Jakarta’s own: "
            "<i>ondel-ondel</i> giants, the National Monument, birds and flowers.",
            "<i>Ondel-ondel</i> are large puppets that keep misfortune away. The river Ciliwung, "
            "where it is drawn, stands for a livelihood that flows on.",
        ),
        "sidoluhur": (
            "Sidoluhur",
            "Classical cloth of the court of Surakarta, kept at the court of Yogyakarta too, where "
            "it is written <i>Sidaluhur</i>.",
            "A lattice of lozenges over the whole cloth, an ornament in each: wings, birds or "
            "butterflies, plants, a throne. By tradition on a dark ground; on white the same "
            "pattern is <i>Sidomulyo</i>, on a ground filled with curls <i>Sidomukti</i>. The "
            "pictures that this model learned from do not always keep them apart.",
            "Javanese <i>sido</i>, to come true, and <i>luhur</i>, noble: the wish for a noble and "
            "respected life. Brides wear it, traditionally on the wedding night.",
        ),
        "tambal": (
            "Tambal",
            "Classical cloth of the courts of central Java, above all Yogyakarta; made on the "
            "north coast too. The pattern probably goes back to priests’ garments that were sewn "
            "from many pieces.",
            "Looks like patchwork, but is one piece of cloth: triangles and rectangles, each with "
            "another pattern, such as <i>parang</i>, <i>truntum</i> or <i>ceplok</i>.",
            "<i>Tambal</i> means to patch or mend. The sick were covered with it to help them "
            "recover, as cloth that is torn is mended; at the courts it was thought to protect.",
        ),
    },
    "id": {
        "betawi": (
            "Betawi",
            "Kain Jakarta dan orang Betawi. Di kota pelabuhan tempat banyak bangsa bertemu, kain "
            "ini menyerap ragam hias dari seluruh Jawa: buketan dari Pekalongan, <i>garuda</i> "
            "dari Solo dan Yogyakarta.",
            "Warna sangat cerah; deretan segitiga tinggi, <i>pucuk rebung</i>, disebut juga "
            "<i>pasung</i> atau <i>tumpal</i>; serta yang khas Jakarta: ondel-ondel, Monumen "
            "Nasional, burung, dan bunga.",
            "Ondel-ondel adalah boneka besar penolak bala. Sungai Ciliwung, bila digambarkan, "
            "melambangkan rezeki yang terus mengalir.",
        ),
        "sidoluhur": (
            "Sidoluhur",
            "Kain klasik Keraton Surakarta, juga menjadi koleksi Keraton Yogyakarta, yang "
            "menulisnya <i>Sidaluhur</i>.",
            "Kisi belah ketupat di seluruh kain, masing-masing berisi ragam hias: sayap, burung "
            "atau kupu-kupu, tumbuhan, tahta. Menurut tradisi berlatar gelap; dengan latar putih "
            "pola yang sama disebut <i>Sidomulyo</i>, berlatar <i>ukel</i> disebut "
            "<i>Sidomukti</i>. Gambar yang dipelajari model ini tidak selalu membedakannya.",
            "Dalam bahasa Jawa <i>sido</i> berarti jadi atau terlaksana, dan <i>luhur</i> berarti "
            "mulia: harapan akan hidup yang luhur dan dihormati. Dikenakan pengantin wanita, "
            "menurut tradisi pada malam pengantin.",
        ),
        "tambal": (
            "Tambal",
            "Kain klasik keraton di Jawa bagian tengah, terutama Yogyakarta; dibuat juga di "
            "pesisir utara. Polanya mungkin berasal dari jubah pendeta yang dijahit dari banyak "
            "potongan kain.",
            "Tampak seperti kain perca, tetapi dibatik pada satu kain: bidang segitiga dan segi "
            "empat, masing-masing dengan pola lain, misalnya <i>parang</i>, <i>truntum</i>, atau "
            "<i>ceplok</i>.",
            "<i>Tambal</i> berarti menambal atau memperbaiki. Orang sakit diselimuti kain ini agar "
            "lekas sembuh, seperti kain rusak yang ditambal; di keraton kain ini dianggap "
            "melindungi.",
        ),
    },
}

#: Where the texts on a motif come from: name and address. The records of the Art Institute of
#: Chicago were read in a copy of its open data; the numbers are the museum's own.
SOURCES = {
    "betawi": (
        (
            "Sumarsono et al., Batik Betawi (Perpustakaan Jakarta)",
            "https://perpustakaan.jakarta.go.id/book/detail?cn=INLIS000000000847405",
        ),
        (
            "Kompas",
            "https://travel.kompas.com/read/2022/05/19/162950027/"
            "8-motif-batik-betawi-dari-jakarta-yang-bernilai-sejarah-dan-budaya?page=2",
        ),
        (
            "Seasia",
            "https://seasia.co/2022/09/06/the-beauty-of-jakarta-s-betawi-batik-motifs",
        ),
    ),
    "sidoluhur": (
        (
            "Kepulauan Batik",
            "https://kepulauanbatik.com/2016/03/04/batik-batik-sido-kekasih-keraton-2/",
        ),
        (
            "Alona Batik",
            "http://alonabatik.com/berita/detail/batik-sidomukti-dan-batik-sidomulyo-29100.html",
        ),
        (
            "Tempo",
            "https://travel.tempo.co/read/1740004/menengok-makna-motif-batik-pusaka-dan-manuskrip-"
            "keraton-yogyakarta-saat-kunjungan-kaisar-jepangindeks",
        ),
    ),
    "tambal": (
        ("Art Institute of Chicago", "https://www.artic.edu/artworks/97303"),
        (
            "Semarangpos",
            "https://www.semarangpos.com/"
            "bisakah-batik-tambal-sembuhkan-penyakit-begini-ceritanya-1045307",
        ),
        (
            "IDN Times",
            "https://jogja.idntimes.com/life/inspiration/filosofi-batik-motif-tambal-lekat-dengan-"
            "manunggaling-kawula-gusti-00-1rwjl-37xmyz/amp",
        ),
    ),
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
        "sources": "Sources",
        "sure": "{motif}",
        "sure_note": "Calibrated on pictures that the model had not seen: of a hundred "
        "answers like this one, about {hundred} are right, if the cloth shows one of the three "
        "motifs. Many cloths with other motifs are taken for one of these.",
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
        "sources": "Sumber",
        "sure": "{motif}",
        "sure_note": "Dikalibrasi pada gambar yang belum pernah dilihat model: dari seratus "
        "jawaban seperti ini, sekitar {hundred} benar, jika kain ini memang salah satu dari "
        "ketiganya. Banyak kain bermotif lain terbaca sebagai salah satunya.",
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


def sources_html(language: str, motif: str) -> str:
    """Return a motif's sources as a line of links, none of which is asked until it is followed."""
    links = " · ".join(
        f'<a href="{html.escape(address)}" target="_blank" rel="noopener noreferrer">'
        f"{html.escape(name)}</a>"
        for name, address in SOURCES.get(motif, ())
    )
    return f'<p class="quiet sources">{say(language, "sources")}: {links}</p>' if links else ""


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
